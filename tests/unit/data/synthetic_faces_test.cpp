#include "data/synthetic_faces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "core/check.h"
#include "data/synthetic_render.h"

namespace facetrain {
namespace {

using synthetic::draw_identity;
using synthetic::FaceIdentity;
using synthetic::Nuisance;
using synthetic::plain_nuisance;
using synthetic::render_face;

constexpr float kDegree = synthetic::kPi / 180;

SyntheticFace plain(int64_t identity) {
  return render_synthetic_face({.seed = 1, .size = 112, .nuisance = false}, identity, 0);
}

// The middle of every identity parameter's range.
FaceIdentity middle_identity() {
  FaceIdentity face{};
  for (const auto& parameter : synthetic::identity_parameters()) {
    face.*parameter.member = 0.5f * (parameter.low + parameter.high);
  }
  return face;
}

// The plain identity under changed nuisance.
template <class Change>
SyntheticFace changed(int64_t identity, Change change, int size = 112) {
  const FaceIdentity face = draw_identity(1, identity);
  Nuisance nuisance = plain_nuisance(face);
  change(nuisance);
  return render_face(face, nuisance, size);
}

double mean_difference(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) sum += std::abs(a.pixels[i] - b.pixels[i]);
  return sum / static_cast<double>(a.pixels.size());
}

struct Point {
  float x, y;
};
Point point68(const SyntheticFace& face, int i) {
  return {face.landmarks68[2 * i], face.landmarks68[2 * i + 1]};
}
Point point5(const SyntheticFace& face, int i) {
  return {face.landmarks5[2 * i], face.landmarks5[2 * i + 1]};
}

// Whether one of `classes` is in the mask within `reach` pixels of a point.
bool near_class(const SyntheticFace& face, Point p, std::initializer_list<int> classes, int reach) {
  const int size = face.mask.width;
  const int px = static_cast<int>(std::lround(p.x)), py = static_cast<int>(std::lround(p.y));
  for (int y = std::max(0, py - reach); y <= std::min(size - 1, py + reach); ++y) {
    for (int x = std::max(0, px - reach); x <= std::min(size - 1, px + reach); ++x) {
      const int found = face.mask.pixels[y * size + x];
      if (std::find(classes.begin(), classes.end(), found) != classes.end()) return true;
    }
  }
  return false;
}

int pixels_of(const SyntheticFace& face, int region) {
  return static_cast<int>(std::count(face.mask.pixels.begin(), face.mask.pixels.end(), region));
}

size_t attribute(std::string_view name) {
  const auto names = synthetic_attribute_names();
  const auto found = std::find(names.begin(), names.end(), name);
  FT_CHECK(found != names.end(), "no attribute {}", name);
  return static_cast<size_t>(found - names.begin());
}

TEST(SyntheticFaces, SameKeyGivesSameBytesOnAnyThread) {
  const SyntheticOptions options;
  std::vector<SyntheticFace> here, there(6);
  for (int i = 0; i < 6; ++i) here.push_back(render_synthetic_face(options, i, 3 * i));
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 5 - t; i >= 0; i -= 2) there[i] = render_synthetic_face(options, i, 3 * i);
    });
  }
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(here[i].image.pixels, there[i].image.pixels);
    EXPECT_EQ(here[i].mask.pixels, there[i].mask.pixels);
    EXPECT_EQ(here[i].landmarks68, there[i].landmarks68);
    EXPECT_EQ(here[i].visibility68, there[i].visibility68);
    EXPECT_EQ(here[i].attributes, there[i].attributes);
    EXPECT_EQ(here[i].gaze, there[i].gaze);
  }
}

TEST(SyntheticFaces, SeedIdentityAndImageMatter) {
  const auto face = [](uint64_t seed, int64_t identity, int64_t image) {
    return render_synthetic_face({.seed = seed}, identity, image).image;
  };
  const Image base = face(1, 0, 0);
  EXPECT_GT(mean_difference(base, face(2, 0, 0)), 5);
  EXPECT_GT(mean_difference(base, face(1, 1, 0)), 5);
  EXPECT_GT(mean_difference(base, face(1, 0, 1)), 5);
  EXPECT_GT(mean_difference(plain(0).image, plain(1).image), 3);
}

TEST(SyntheticFaces, PlainFacesLieOnTheAlignmentTemplate) {
  constexpr float kTemplate[10] = {38.3f, 51.7f, 73.5f, 51.5f, 56.0f,
                                   71.7f, 41.5f, 92.4f, 70.7f, 92.2f};
  constexpr int kFaces = 60;
  float mean[10] = {};
  for (int i = 0; i < kFaces; ++i) {
    const SyntheticFace face = plain(i);
    for (int k = 0; k < 10; ++k) {
      mean[k] += face.landmarks5[k] / kFaces;
      EXPECT_NEAR(face.landmarks5[k], kTemplate[k], 8.0f) << "identity " << i << " value " << k;
    }
  }
  for (int k = 0; k < 10; ++k) EXPECT_NEAR(mean[k], kTemplate[k], 1.2f) << k;
}

TEST(SyntheticFaces, PoseSigns) {
  const SyntheticFace front = plain(4);
  const auto nose_offset = [](const SyntheticFace& face) {
    const Point left = point5(face, 0), right = point5(face, 1), nose = point5(face, 2);
    return Point{nose.x - 0.5f * (left.x + right.x), nose.y - 0.5f * (left.y + right.y)};
  };
  EXPECT_NEAR(nose_offset(front).x, 0, 0.1f);
  const auto yawed = changed(4, [](Nuisance& n) { n.yaw = 30 * kDegree; });
  EXPECT_GT(nose_offset(yawed).x, 5);
  EXPECT_NEAR(yawed.pose[0], 30, 1e-3f);
  EXPECT_NEAR(yawed.gaze[0], 30, 1e-3f);
  const auto up = changed(4, [](Nuisance& n) { n.pitch = 15 * kDegree; });
  EXPECT_LT(nose_offset(up).y, nose_offset(front).y - 2);
  EXPECT_NEAR(up.pose[1], 15, 1e-3f);
  EXPECT_NEAR(up.gaze[1], 15, 1e-3f);
  const auto rolled = changed(4, [](Nuisance& n) { n.roll = 10 * kDegree; });
  EXPECT_GT(point5(rolled, 1).y, point5(rolled, 0).y + 3);  // clockwise: the right eye is lower
  EXPECT_GT(point5(rolled, 0).x, point5(front, 0).x);       // and the eyes lean to the right
  const auto looking = changed(4, [](Nuisance& n) { n.gaze_yaw = 20 * kDegree; });
  EXPECT_NEAR(looking.gaze[0], 20, 1e-3f);
  EXPECT_NEAR(looking.pose[0], 0, 1e-3f);
}

// The iris is the darkest part of the eye's opening: it must follow the gaze.
TEST(SyntheticFaces, IrisFollowsGaze) {
  const auto dark_centre = [](const SyntheticFace& face) {
    double weight = 0, sum = 0;
    const int size = face.mask.width;
    for (int i = 0; i < size * size; ++i) {
      if (face.mask.pixels[i] != 4) continue;
      const double dark = std::max(0, 150 - face.image.pixels[3 * i]);
      weight += dark, sum += dark * (i % size);
    }
    return sum / weight - face.landmarks5[0];
  };
  const auto look = [&](float degrees) {
    return dark_centre(changed(
        4, [&](Nuisance& n) { n.gaze_yaw = degrees * kDegree; }, 224));
  };
  EXPECT_GT(look(20), look(-20) + 2);
}

// Visible points, and how many of them have one of the classes within three pixels.
struct Hits {
  int points = 0, hits = 0;
  void count(const SyntheticFace& face, int first, int last, std::initializer_list<int> classes) {
    for (int k = first; k < last; ++k) {
      if (!face.visibility68[k]) continue;
      ++points;
      hits += near_class(face, point68(face, k), classes, 3);
    }
  }
};

TEST(SyntheticFaces, LandmarksLieInTheirRegions) {
  Hits eyes, mouths, noses, brows;
  for (int i = 0; i < 120; ++i) {
    const SyntheticFace face = render_synthetic_face({.seed = 3}, i, i);
    if (!face.attributes[attribute("eyes_closed")]) {
      eyes.count(face, 36, 42, {4});
      eyes.count(face, 42, 48, {5});
    }
    mouths.count(face, 48, 68, {7, 8, 9});
    noses.count(face, 27, 36, {6});
    brows.count(face, 18, 22, {2});
    brows.count(face, 22, 26, {3});
  }
  // A far corner may be a sliver without a pixel of its own, hence not all.
  EXPECT_GT(eyes.points, 600);
  EXPECT_GE(eyes.hits, 0.99 * eyes.points);
  EXPECT_GT(mouths.points, 1000);
  EXPECT_GE(mouths.hits, 0.99 * mouths.points);
  EXPECT_GT(noses.points, 500);
  EXPECT_GE(noses.hits, 0.99 * noses.points);
  EXPECT_GT(brows.points, 300);
  EXPECT_GE(brows.hits, 0.99 * brows.points);
}

TEST(SyntheticFaces, HiddenLandmarks) {
  const SyntheticFace front = plain(2);
  for (int i = 17; i < 68; ++i) EXPECT_EQ(front.visibility68[i], 1) << i;
  // Turned to the image's right, the image's right side of the face is the far one.
  const auto turned = changed(2, [](Nuisance& n) { n.yaw = 50 * kDegree; });
  int near = 0, far = 0;
  for (int i = 0; i < 8; ++i) near += turned.visibility68[i], far += turned.visibility68[16 - i];
  EXPECT_GE(near, 5);
  EXPECT_EQ(far, 0);
  EXPECT_EQ(turned.visibility68[36], 1);
  const auto profile = changed(1, [](Nuisance& n) { n.yaw = 60 * kDegree; });
  EXPECT_EQ(profile.visibility68[36], 1);
  EXPECT_LT(std::count(&profile.visibility68[42], &profile.visibility68[48], 1), 6);
  const auto masked = changed(2, [](Nuisance& n) { n.wear.mask = true; });
  for (int i = 48; i < 68; ++i) EXPECT_EQ(masked.visibility68[i], 0) << i;
  for (int i = 36; i < 48; ++i) EXPECT_EQ(masked.visibility68[i], 1) << i;
  EXPECT_EQ(pixels_of(masked, 7) + pixels_of(masked, 8) + pixels_of(masked, 9), 0);
  const auto lenses = [](synthetic::Glasses kind) {
    return changed(2, [&](Nuisance& n) { n.wear.glasses = kind; });
  };
  const auto clear = lenses(synthetic::Glasses::kClear), dark = lenses(synthetic::Glasses::kDark);
  for (int i = 37; i < 42; i += 3) {
    EXPECT_EQ(clear.visibility68[i], 1) << i;
    EXPECT_EQ(dark.visibility68[i], 0) << i;
  }
  EXPECT_EQ(pixels_of(dark, 4), 0);
  EXPECT_GT(pixels_of(clear, 4), 20);
}

TEST(SyntheticFaces, VisibleLandmarksAreInTheImage) {
  for (int i = 0; i < 80; ++i) {
    const SyntheticFace face = render_synthetic_face({.seed = 5}, i, 0);
    for (int k = 0; k < 68; ++k) {
      const Point p = point68(face, k);
      EXPECT_TRUE(std::isfinite(p.x) && std::isfinite(p.y));
      if (!face.visibility68[k]) continue;
      EXPECT_TRUE(p.x >= -0.5f && p.y >= -0.5f && p.x <= 111.5f && p.y <= 111.5f) << i << ' ' << k;
    }
    for (int k = 0; k < 10; ++k) {
      EXPECT_GT(face.landmarks5[k], 0);
      EXPECT_LT(face.landmarks5[k], 112);
    }
  }
}

TEST(SyntheticFaces, LabelsAreInRangeAndVaried) {
  constexpr int kImages = 400;
  const auto names = synthetic_attribute_names();
  ASSERT_GE(names.size(), 12u);
  EXPECT_EQ(synthetic_mask_names().size(), 11u);
  std::vector<int> attributes(names.size()), regions(11);
  std::vector<int> expressions(synthetic_expression_names().size());
  std::vector<int> ages(synthetic_age_group_names().size());
  float lowest_quality = 1, highest_quality = 0, widest_yaw = 0;
  for (int i = 0; i < kImages; ++i) {
    const SyntheticFace face = render_synthetic_face({.seed = 4, .size = 48}, i / 4, i);
    ASSERT_EQ(face.attributes.size(), names.size());
    for (size_t k = 0; k < names.size(); ++k) attributes[k] += face.attributes[k];
    for (int region = 0; region < 11; ++region) regions[region] += pixels_of(face, region) > 0;
    ++expressions.at(face.expression);
    ++ages.at(face.age_group);
    EXPECT_TRUE(face.age >= 16 && face.age <= 80);
    EXPECT_LE(std::abs(face.pose[0]), 60.001f);
    EXPECT_LE(std::abs(face.pose[1]), 20);
    EXPECT_LE(std::abs(face.pose[2]), 20);
    EXPECT_LE(std::abs(face.gaze[0]), 100);
    EXPECT_TRUE(face.jpeg_quality >= 50 && face.jpeg_quality <= 100);
    EXPECT_TRUE(face.quality >= 0 && face.quality <= 1);
    lowest_quality = std::min(lowest_quality, face.quality);
    highest_quality = std::max(highest_quality, face.quality);
    widest_yaw = std::max(widest_yaw, std::abs(face.pose[0]));
    const auto most = *std::max_element(face.mask.pixels.begin(), face.mask.pixels.end());
    EXPECT_LE(most, 10);
  }
  for (size_t k = 0; k < names.size(); ++k) {
    EXPECT_GE(attributes[k], 0.03 * kImages) << names[k];
    EXPECT_LE(attributes[k], 0.97 * kImages) << names[k];
  }
  for (int region = 0; region < 11; ++region) EXPECT_GT(regions[region], 40) << region;
  for (const int count : expressions) EXPECT_GE(count, 10);
  for (const int count : ages) EXPECT_GE(count, 10);
  EXPECT_LT(lowest_quality, 0.4f);
  EXPECT_GT(highest_quality, 0.8f);
  EXPECT_GT(widest_yaw, 50);
}

TEST(SyntheticFaces, EveryIdentityParameterShows) {
  const auto parameters = synthetic::identity_parameters();
  EXPECT_GE(parameters.size(), 24u);
  for (const auto& parameter : parameters) {
    FaceIdentity low = middle_identity();
    low.iris_tone = 0.9f;
    FaceIdentity high = low;
    low.*parameter.member = parameter.low;
    high.*parameter.member = parameter.high;
    Nuisance before = plain_nuisance(low), after = plain_nuisance(high);
    before.yaw = after.yaw = 0.4f;
    const Image a = render_face(low, before, 112).image, b = render_face(high, after, 112).image;
    int pixels = 0;
    for (size_t i = 0; i < a.pixels.size(); ++i) pixels += std::abs(a.pixels[i] - b.pixels[i]) > 3;
    EXPECT_GE(pixels, 25) << parameter.name;
  }
}

TEST(SyntheticFaces, IdentityIsDrawnWithinItsRanges) {
  for (int i = 0; i < 50; ++i) {
    const FaceIdentity face = draw_identity(9, i);
    for (const auto& parameter : synthetic::identity_parameters()) {
      EXPECT_GE(face.*parameter.member, parameter.low) << parameter.name;
      EXPECT_LE(face.*parameter.member, parameter.high) << parameter.name;
    }
  }
}

TEST(SyntheticFaces, ExpressionAndAgeShow) {
  const auto smiling = changed(6, [](Nuisance& n) { n.expression.smile = 1; });
  const SyntheticFace rest = plain(6);
  EXPECT_GT(point68(smiling, 54).x - point68(smiling, 48).x,
            point68(rest, 54).x - point68(rest, 48).x + 2);
  EXPECT_LT(point68(smiling, 48).y, point68(rest, 48).y - 1);
  const auto open = changed(6, [](Nuisance& n) { n.expression.open = 0.8f; });
  EXPECT_GT(point68(open, 66).y - point68(open, 62).y, 5);
  EXPECT_GT(pixels_of(open, 8), 40);
  const auto shut = changed(6, [](Nuisance& n) { n.expression.closed = 1; });
  EXPECT_EQ(pixels_of(shut, 4) + pixels_of(shut, 5), 0);
  const auto young = changed(6, [](Nuisance& n) { n.age = 20; });
  const auto old = changed(6, [](Nuisance& n) { n.age = 78; });
  EXPECT_GT(mean_difference(young.image, old.image), 0.8);
}

TEST(SyntheticFaces, OtherSizesShowTheSameFace) {
  const FaceIdentity face = draw_identity(1, 8);
  const Nuisance nuisance = plain_nuisance(face);
  const SyntheticFace small = render_face(face, nuisance, 112);
  const SyntheticFace large = render_face(face, nuisance, 224);
  ASSERT_EQ(large.image.pixels.size(), size_t{224 * 224 * 3});
  for (int i = 0; i < 136; ++i) {
    EXPECT_NEAR((large.landmarks68[i] + 0.5f) / 2 - 0.5f, small.landmarks68[i], 1e-3f);
  }
}

TEST(SyntheticFaces, ContactSheetTiles) {
  const SyntheticOptions options{.seed = 2, .size = 40};
  const Image sheet = synthetic_contact_sheet(options, 2, 4);
  ASSERT_EQ(sheet.width, 160);
  ASSERT_EQ(sheet.height, 80);
  const Image tile = render_synthetic_face(options, 1, 0).image;
  for (int y = 0; y < 40; ++y) {
    EXPECT_TRUE(std::equal(&tile.pixels[y * 120], &tile.pixels[y * 120] + 120,
                           &sheet.pixels[((40 + y) * 160 + 80) * 3]));
  }
}

TEST(SyntheticFaces, RefusesNonsense) {
  EXPECT_THROW(render_synthetic_face({.size = 4}, 0, 0), Error);
  EXPECT_THROW(render_synthetic_face({}, -1, 0), Error);
  EXPECT_THROW(render_synthetic_face({}, 0, -1), Error);
  EXPECT_THROW(synthetic_contact_sheet({}, 0, 3), Error);
}

}  // namespace
}  // namespace facetrain
