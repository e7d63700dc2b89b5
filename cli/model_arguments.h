// The words that name a trained network on the command line: what eval, embed and export have in
// common.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace facetrain {

struct ModelArguments {
  std::string what;                    // the first word
  std::string path;                    // a second one, where the command takes it
  std::vector<std::string> overrides;  // section.key=value
  std::vector<std::string> words;      // as given

  // Declares the words. `takes_path`: the command has a second word, not an override.
  void add(CLI::App& command, const std::string& meaning, bool takes_path = false);
  // Sorts the words; throws CLI::ValidationError for too few or too many.
  void split();

 private:
  std::string command_;
  bool takes_path_ = false;
};

}  // namespace facetrain
