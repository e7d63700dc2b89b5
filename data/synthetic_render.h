// One face from explicit parameters: what data/synthetic_faces.h draws for a key, laid open for
// tests and contact sheets.
#pragma once

#include "data/synthetic_faces.h"
#include "data/synthetic_parameters.h"

namespace facetrain::synthetic {

SyntheticFace render_face(const FaceIdentity& identity, const Nuisance& nuisance, int size);

}  // namespace facetrain::synthetic
