#include "export/model_card.h"

#include <algorithm>
#include <cmath>

namespace facetrain {
namespace {

constexpr double kZ = 1.959963984540054;  // of the normal distribution, 95 % in the middle

std::string or_unknown(const std::string& text, const std::string& otherwise) {
  return text.empty() ? otherwise : text;
}

std::string the_file(const ModelCard& card) {
  return fmt::format(
      "| | |\n|---|---|\n"
      "| file | {} |\n| format | {} |\n| bytes | {} |\n| SHA-256 | `{}` |\n"
      "| made from | {} |\n| written by | facetrain {} |\n"
      "| input | `data`, float32 [batch, 3, {}, {}]: RGB, (x − mean) / deviation of x in 0 … 255 "
      "|\n"
      "| mean, deviation | {}; {} |\n"
      "| faces | aligned as those that it was trained on |\n"
      "| output | `embedding`, float32 [batch, {}], not normalised; compare by the cosine |\n"
      "| parameters | {} |\n\n"
      "Check it with `sha256sum {}`.\n",
      card.file, card.format, card.bytes, card.sha256, or_unknown(card.info.origin, "not known"),
      FACETRAIN_VERSION, card.image_size, card.image_size, fmt::join(card.info.mean, " "),
      fmt::join(card.info.deviation, " "), card.dim, card.parameters, card.file);
}

std::string rows(const ModelCard& card, bool of_groups) {
  std::string text;
  for (const auto& figure : card.figures)
    if (figure.group.empty() != of_groups)
      text += fmt::format(
          "| {} |{} {} | {:.4f} | {} | {} |\n", figure.set,
          of_groups ? fmt::format(" {} |", figure.group) : "", figure.name, figure.value,
          figure.interval
              ? fmt::format("{:.4f} … {:.4f}", figure.interval->first, figure.interval->second)
              : "-",
          figure.basis);
  return text;
}

std::string group_figures(const ModelCard& card) {
  const std::string groups = rows(card, true);
  if (groups.empty())
    return "\nFigures per group of people: not known. The evaluation during training did not "
           "divide "
           "its sets into groups; `group_by` of a set in `eval.sets` does.\n";
  return "\nPer group of people, pairs with both images in it, with the thresholds of all "
         "pairs:\n\n"
         "| set | group | figure | value | 95 % interval | over |\n|---|---|---|---|---|---|\n" +
         groups;
}

std::string figures(const ModelCard& card) {
  if (card.figures.empty()) return fmt::format("Figures: not known ({}).\n", card.evaluated);
  return fmt::format(
             "Measured {}.\n\n| set | figure | value | 95 % interval | over |\n"
             "|---|---|---|---|---|\n{}",
             card.evaluated, rows(card, false)) +
         "\nIntervals of shares are Wilson's, those of `auc` Hanley and McNeil's. Both take pairs "
         "for independent and thresholds for fixed; pairs that share people or images are not "
         "independent, so the true intervals are wider.\n";
}

constexpr const char* kIntendedUse =
    "Comparing two pictures of faces: the higher the cosine of their embeddings, the more likely "
    "they show one person. The threshold is the user's to choose, on pairs of people and cameras "
    "like those that it will meet, for the rate of false matches that the use can bear.\n\n"
    "Not for decisions about people that no person checks, nor for recognising people who have not "
    "agreed to it or where the law forbids it. Nothing here says how it does on groups of people, "
    "cameras, ages or poses other than those of the sets below.\n\n"
    "*This section is the default text of facetrain; whoever hands the file out should say what "
    "it was made for.*\n";

}  // namespace

std::string to_markdown(const ModelCard& card) {
  std::string text = fmt::format("# {}\n\n## The file\n\n{}", card.title, the_file(card));
  text += fmt::format("\n## Intended use\n\n{}", kIntendedUse);
  text += fmt::format(
      "\n## Training data\n\n{}\n\nThe licence of the pictures, the consent of the people in them "
      "and who they are: facetrain does not know; to be filled in.\n",
      card.training_data.empty() ? "Not known: the file was not exported from a run."
                                 : fmt::format("`data.train`: `{}`", card.training_data));
  text += fmt::format("\n## Figures\n\n{}", figures(card));
  text += group_figures(card);
  text +=
      fmt::format("\n## Training configuration\n\n{}",
                  card.training_config.empty()
                      ? fmt::format("Not known. The network and its input:\n\n```yaml\n{}\n```\n",
                                    card.info.config)
                      : fmt::format("```yaml\n{}\n```\n", card.training_config));
  return text;
}

std::pair<double, double> wilson_interval(double share, int64_t n) {
  const double count = static_cast<double>(n), z2 = kZ * kZ;
  const double middle = (share + z2 / (2 * count)) / (1 + z2 / count);
  const double half =
      kZ / (1 + z2 / count) * std::sqrt(share * (1 - share) / count + z2 / (4 * count * count));
  return {std::max(middle - half, 0.0), std::min(middle + half, 1.0)};
}

std::pair<double, double> auc_interval(double area, int64_t same, int64_t different) {
  const auto positives = static_cast<double>(same), negatives = static_cast<double>(different);
  const double q1 = area / (2 - area), q2 = 2 * area * area / (1 + area);
  const double variance = (area * (1 - area) + (positives - 1) * (q1 - area * area) +
                           (negatives - 1) * (q2 - area * area)) /
                          (positives * negatives);
  const double half = kZ * std::sqrt(std::max(variance, 0.0));
  return {std::max(area - half, 0.0), std::min(area + half, 1.0)};
}

}  // namespace facetrain
