// A model card (Mitchell 2019, arXiv:1810.03993) as Markdown: what is known of an exported file,
// and where nothing is known, that.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "export/exporter.h"

namespace facetrain {

struct CardFigure {
  std::string set, name;  // "lfw", "accuracy"
  double value = 0;
  std::optional<std::pair<double, double>> interval;  // 95 %
  std::string basis;                                  // "6000 pairs", or why there is no interval
  std::string group = {};                             // of people, where the figure is of one only
};

struct ModelCard {
  std::string title;         // "iresnet50"
  std::string file, format;  // its name, "onnx"
  uint64_t bytes = 0;
  std::string sha256;
  int64_t image_size = 0, dim = 0, parameters = 0;
  ExportInfo info;
  // Of the training; empty: not known.
  std::string training_data;  // one line of YAML
  std::string training_config;
  std::vector<CardFigure> figures;
  std::string evaluated;  // "during training, after step 1200", or why there are no figures
};

std::string to_markdown(const ModelCard& card);

// Of a share `share` of n trials, 95 %: Wilson's score interval (1927).
std::pair<double, double> wilson_interval(double share, int64_t n);
// Of an area under the ROC curve over so many same and different pairs, 95 %, normal: Hanley and
// McNeil (1982), equations 1 and 2; cut to [0, 1].
std::pair<double, double> auc_interval(double area, int64_t same, int64_t different);

}  // namespace facetrain
