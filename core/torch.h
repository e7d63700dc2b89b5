// What we use of LibTorch: tensors, autograd, modules. <torch/torch.h> would bring its optimizers,
// data loaders and layers too: 4 s of compile time in every file, even from a precompiled header.
#pragma once

#include <torch/autograd.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>
