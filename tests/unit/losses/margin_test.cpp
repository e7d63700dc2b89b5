// What margins promise beyond their formulas: options, fall-backs, straight-through derivatives,
// schedules, draws that belong to samples, NaN in and NaN out.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "comm/thread_comm.h"
#include "core/step_context.h"
#include "losses/sharded_classifier.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

std::shared_ptr<Margin> make(const std::string& yaml) {
  return Margins::get().create(Config::parse(yaml));
}

MarginInput at_cosines(const std::vector<double>& cosines) {
  MarginInput in;
  in.target = torch::tensor(cosines, torch::kDouble);
  const int64_t rows = in.target.size(0);
  in.norm = 10 * torch::arange(1, rows + 1, torch::kDouble);
  in.label = in.position = torch::arange(rows);
  in.prepass_sum = torch::ones_like(in.target);
  in.prepass_count = torch::full_like(in.target, 4);
  in.classes = 100;
  return in;
}

bool has_field(const Registry<Margin>::Entry& entry, const std::string& name) {
  return std::any_of(entry.fields.begin(), entry.fields.end(),
                     [&](const FieldInfo& field) { return field.name == name; });
}

TEST(MarginOptions, AreChecked) {
  expect_error([] { make("{name: arcface, fallback: soft}"); }, {"fallback", "hard", "soft"});
  expect_error([] { make("{name: arcface, margn: 0.3}"); }, {"margn", "did you mean", "margin"});
  expect_error([] { make("{name: cosface, scale: 0}"); }, {"scale", "1 ... 1024", "0"});
  expect_error([] { make("{name: cosface, margin: {at: [0, 5], value: [0.1, 7]}}"); },
               {"margin", "0 ... 1", "7"});
  expect_error([] { make("{name: magface, l_a: 110}"); }, {"l_a < u_a", "110"});
  expect_error([] { make("{name: sphereface_r, shape: v2, margin: {at: [0, 5], value: [1, 2]}}"); },
               {"v2", "schedule"});
  expect_error([] { make("{name: sphereface_r, shape: v2, gradient: exact}"); },
               {"v2", "straight_through", "exact"});
}

// The figures are cos(acos(c) + 0.5) and c - 0.5 sin(0.5), worked out by hand from the formulas.
TEST(ArcFace, FallbacksAtTheThreshold) {
  const double edge = std::cos(M_PI - 0.5);  // -0.87758
  const MarginInput in = at_cosines({edge + 1e-6, edge - 1e-6, 1e-6, -1e-6, 1.0, -1.0});
  const auto phi = [&](const std::string& fallback) {
    return make("{name: arcface, fallback: " + fallback + "}")->apply(in).phi;
  };
  const double drop = 0.5 * std::sin(0.5);
  const torch::Tensor hard = phi("hard"), easy = phi("easy"), none = phi("none");
  EXPECT_NEAR(hard[0].item<double>(), std::cos(std::acos(edge + 1e-6) + 0.5), 1e-12);
  EXPECT_NEAR(hard[1].item<double>(), edge - 1e-6 - drop, 1e-12);
  EXPECT_NEAR(hard[5].item<double>(), -1 - drop, 1e-12);
  EXPECT_NEAR(easy[2].item<double>(), std::cos(std::acos(1e-6) + 0.5), 1e-12);
  EXPECT_NEAR(easy[3].item<double>(), -1e-6, 1e-15);
  EXPECT_NEAR(none[1].item<double>(), std::cos(std::acos(edge - 1e-6) + 0.5), 1e-12);
  for (const torch::Tensor& all : {hard, easy, none})
    EXPECT_NEAR(all[4].item<double>(), std::cos(0.5), 1e-12);
}

// SphereFace's ψ for m = 4 falls from 1 to -7; at 45 degrees cos(π) = -1, at 90 degrees 1 - 4 = -3.
TEST(SphereFace, FallsMonotonically) {
  const auto margin = make("{name: sphereface, norm: hard, blend_start: 0, blend_end: 0}");
  const torch::Tensor known =
      margin->apply(at_cosines({1.0, std::sqrt(0.5), 0.0, -std::sqrt(0.5), -1.0})).phi;
  EXPECT_LE((known - torch::tensor({1.0, -1.0, -3.0, -5.0, -7.0}, torch::kDouble))
                .abs()
                .max()
                .item<double>(),
            1e-12);
  std::vector<double> cosines;
  for (int i = 0; i <= 200; ++i) cosines.push_back(std::cos(M_PI * i / 200));
  const torch::Tensor all = margin->apply(at_cosines(cosines)).phi;
  EXPECT_TRUE((all.slice(0, 1) < all.slice(0, 0, 200)).all().item<bool>());
}

// Cosines beyond ±(1 - 1e-3) and angles that the margin takes out of [1e-3, π - 1e-3] teach
// nothing.
TEST(AdaFace, LearnsNothingFromATargetThatIsCutOff) {
  const MarginInput in = at_cosines({0.9995, 0.5, -0.9995, -0.5, std::cos(0.3), std::cos(0.5)});
  const MarginOutput mild = make("{name: adaface}")->apply(in);
  const torch::Tensor zero = mild.dphi_dcos == 0;
  EXPECT_TRUE(torch::equal(zero, torch::tensor({true, false, true, false, false, false})));
  // h = 100 and norms 50 and 60 above the mean of about 20 make g = 1: the margin takes the angle
  // 0.3 below zero, and leaves 0.1 of 0.5.
  const MarginOutput full = make("{name: adaface, h: 100}")->apply(in);
  EXPECT_EQ(full.dphi_dcos[4].item<double>(), 0);
  EXPECT_NEAR(full.phi[4].item<double>(), std::cos(1e-3) - 0.8, 1e-9);
  EXPECT_NEAR(full.dphi_dcos[5].item<double>(), std::sin(0.1) / std::sin(0.5), 1e-9);
  EXPECT_NEAR(full.phi[5].item<double>(), std::cos(0.1) - 0.8, 1e-9);
}

TEST(StraightThrough, TakesTheDerivativeAsOneInEveryMarginThatHasIt) {
  const MarginInput in = at_cosines({-0.95, -0.5, 0.05, 0.5, 0.9});
  std::set<std::string> seen;
  for (const auto& entry : Margins::get().entries()) {
    if (!has_field(entry, "gradient")) continue;
    SCOPED_TRACE(entry.name);
    seen.insert(entry.name);
    const std::string kind = entry.name == "mv_softmax" ? ", kind: arc" : "";
    const auto with = [&](const std::string& gradient) {
      return make("{name: " + entry.name + kind + ", gradient: " + gradient + "}")->apply(in);
    };
    const MarginOutput exact = with("exact"), straight = with("straight_through");
    EXPECT_TRUE(torch::equal(straight.phi, exact.phi));
    EXPECT_TRUE(torch::equal(straight.dphi_dcos, torch::ones_like(in.target)));
    EXPECT_FALSE(torch::allclose(exact.dphi_dcos, straight.dphi_dcos));
    EXPECT_FALSE(straight.dphi_dnorm.defined());
  }
  EXPECT_EQ(seen,
            (std::set<std::string>{"adaface", "arcface", "arcnegface", "combined", "curricularface",
                                   "elasticface", "magface", "mv_softmax", "npcface", "sphereface",
                                   "sphereface_r", "subcenter_arcface"}));
  // sin(θ + m) / sin θ at θ = π / 3.
  EXPECT_NEAR(make("{name: arcface}")->apply(in).dphi_dcos[3].item<double>(),
              std::sin(M_PI / 3 + 0.5) / std::sin(M_PI / 3), 1e-12);
}

// UniFace: ln(10 C ρ), at least one class. SphereFace2: with all cosines zero the bias is at rest.
TEST(SharedBias, StartsWhereTheAuthorsStartIt) {
  const auto start = [](const std::string& yaml, int64_t classes, double rate) {
    const auto margin = make(yaml);
    margin->set_problem(classes, rate);
    return margin->rule().shared_bias;
  };
  EXPECT_NEAR(start("{name: uniface}", 10000, 1), -11.512925464970229, 1e-12);
  EXPECT_NEAR(start("{name: uniface}", 10000, 0.1), -9.210340371976184, 1e-12);
  EXPECT_NEAR(start("{name: uniface}", 10000, 0), -2.302585092994046, 1e-12);
  for (const int64_t classes : {2, 10, 10000, 10000000}) {
    const double b = start("{name: sphereface2}", classes, 1), zero = 2 * 0.125 - 1;
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    const double positive = 0.7 * sigmoid(-(40 * (zero - 0.4) + b));
    const double negative = 0.3 * static_cast<double>(classes - 1) * sigmoid(40 * (zero + 0.4) + b);
    EXPECT_NEAR(positive / negative, 1, 1e-9) << classes;
  }
}

struct Range2 {
  double before, after;
};
Range2 values_for(const std::string& margin, const std::string& field) {
  if (field == "scale") return {20, 40};
  if (field == "m1" || margin.starts_with("sphereface")) return {1.2, 1.4};
  return {0.1, 0.3};
}

// Every option whose text says so follows its schedule; at a point it is what the number would be.
TEST(Schedules, ChangeEveryScheduledOptionWithTheStep) {
  std::set<std::string> with_margin, with_scale;
  for (const auto& entry : Margins::get().entries())
    for (const FieldInfo& field : entry.fields) {
      if (field.meaning.find("a number or a schedule") == std::string::npos) continue;
      SCOPED_TRACE(entry.name + "." + field.name);
      (field.name == "scale" ? with_scale : with_margin).insert(entry.name);
      const auto [before, after] = values_for(entry.name, field.name);
      const std::string fixed = entry.name == "sphereface" ? ", norm: hard" : "";
      const auto with = [&](const std::string& value) {
        return make("{name: " + entry.name + fixed + ", " + field.name + ": " + value + "}");
      };
      const auto scheduled = with(fmt::format("{{at: [0, 10], value: [{}, {}]}}", before, after));
      MarginInput in = at_cosines({-0.5, 0.05, 0.5, 0.9});
      std::vector<torch::Tensor> seen;
      for (const auto& [step, value] : {std::pair{9, before}, {10, after}}) {
        in.step = step;
        const MarginOutput found = scheduled->apply(in);
        const MarginOutput wanted = with(fmt::format("{}", value))->apply(in);
        const auto all = [](const MarginOutput& out) {
          return torch::cat({out.phi, out.scale, out.p0.defined() ? out.p0 : out.phi});
        };
        EXPECT_TRUE(torch::equal(all(found), all(wanted)));
        seen.push_back(all(found));
        scheduled->discard();
      }
      EXPECT_FALSE(torch::allclose(seen[0], seen[1]));
    }
  for (const char* name : {"am_softmax", "arcface", "combined", "cosface", "adaface",
                           "curricularface", "elasticface", "subcenter_arcface", "sphereface"}) {
    EXPECT_TRUE(with_margin.count(name)) << name;
    EXPECT_TRUE(with_scale.count(name)) << name;
  }
  EXPECT_TRUE(with_scale.count("normface"));
}

TEST(Schedules, InterpolateOverEpochs) {
  const auto margin =
      make("{name: cosface, margin: {at: [0, '2 epochs'], value: [0, 0.5], interpolate: linear}}");
  MarginInput in = at_cosines({0.7});
  in.steps_per_epoch = 10;
  for (const auto& [step, value] : {std::pair{0, 0.0}, {10, 0.25}, {20, 0.5}, {90, 0.5}}) {
    in.step = step;
    EXPECT_NEAR(margin->apply(in).phi.item<double>(), 0.7 - value, 1e-15);
  }
}

TEST(Schedules, FollowTheClassifiersStep) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = 10;
  const auto loss_at = [&](const std::string& margin, int64_t step) {
    ShardedClassifier classifier(options, 4, make("{name: cosface, margin: " + margin + "}"), *comm,
                                 1);
    const torch::Tensor label = torch::arange(3);
    classifier.begin_step(std::vector<torch::Tensor>{label}, step, 100, 10);
    return classifier.forward(torch::eye(3, 4) + 0.1, label, label).detach();
  };
  const std::string schedule = "{at: [0, '1 epochs'], value: [0.1, 0.4]}";
  EXPECT_TRUE(torch::equal(loss_at(schedule, 9), loss_at("0.1", 9)));
  EXPECT_TRUE(torch::equal(loss_at(schedule, 10), loss_at("0.4", 10)));
  EXPECT_FALSE(torch::allclose(loss_at("0.1", 9), loss_at("0.4", 9)));
}

// The margins that samples at these positions draw.
torch::Tensor draws(uint64_t seed, int64_t view, const torch::Tensor& positions) {
  StepContext context;
  context.seed = seed;
  context.view = view;
  const StepScope scope(context);
  MarginInput in;
  in.target = torch::zeros({positions.size(0)}, torch::kDouble);
  in.position = positions;
  return -make("{name: elasticface, kind: cos, margin: 0.35, deviation: 0.05}")->apply(in).phi;
}

TEST(ElasticFace, DrawsBelongToSeedPositionAndView) {
  const torch::Tensor some = torch::arange(100, 108), all = draws(3, 0, some);
  EXPECT_TRUE(torch::equal(draws(3, 0, some.flip(0)).flip(0), all));
  EXPECT_TRUE(torch::equal(draws(3, 0, some.slice(0, 2, 5)), all.slice(0, 2, 5)));
  EXPECT_FALSE(torch::allclose(draws(4, 0, some), all));
  EXPECT_FALSE(torch::allclose(draws(3, 1, some), all));
  EXPECT_FALSE(torch::allclose(draws(3, 0, some + 50), all));
  // 40,000 draws: mean, deviation and fourth moment within five of their standard errors.
  const torch::Tensor z = (draws(9, 0, torch::arange(40000)) - 0.35) / 0.05;
  EXPECT_NEAR(z.mean().item<double>(), 0, 5 / std::sqrt(40000.0));
  EXPECT_NEAR(z.square().mean().item<double>(), 1, 5 * std::sqrt(2 / 40000.0));
  EXPECT_NEAR(z.pow(4).mean().item<double>(), 3, 5 * std::sqrt(96 / 40000.0));
}

TEST(ElasticFace, PlusGivesTheLargestMarginToTheLowestCosine) {
  const MarginInput in = at_cosines({0.9, -0.2, 0.5, 0.1, 0.7});
  const std::string options = "kind: cos, deviation: 0.3, margin: 0.5";
  const torch::Tensor plain =
      in.target - make("{name: elasticface, " + options + "}")->apply(in).phi;
  const torch::Tensor plus =
      in.target - make("{name: elasticface, plus: true, " + options + "}")->apply(in).phi;
  const torch::Tensor falling = std::get<0>(plain.sort(0, true));
  // Rows by rising cosine: 1, 3, 2, 4, 0.
  const torch::Tensor order =
      torch::tensor({int64_t{1}, int64_t{3}, int64_t{2}, int64_t{4}, int64_t{0}});
  EXPECT_LE((plus.index_select(0, order) - falling).abs().max().item<double>(), 1e-15);
  EXPECT_FALSE(torch::allclose(plain, plus));
}

// Cosines that rounding carries past 1 and norms from 0 to 1e18 give finite answers; NaN stays NaN.
TEST(Edges, EveryAnswerIsFiniteAndNaNIsNotHidden) {
  for (const auto type : {torch::kFloat, torch::kDouble})
    for (const auto& entry : Margins::get().entries()) {
      SCOPED_TRACE(entry.name);
      MarginInput in = at_cosines({1, -1, 1 + 1e-6, -1 - 1e-6, 0, 1e-30, 0.5, -0.5});
      in.norm = torch::tensor({0.0, 1e-30, 1e-12, 1.0, 110.0, 1e4, 1e18, 1.0}, torch::kDouble);
      for (torch::Tensor* all : {&in.target, &in.norm, &in.prepass_sum, &in.prepass_count})
        *all = all->to(type);
      const auto margin = make("{name: " + entry.name + "}");
      margin->to(type);
      const MarginOutput out = margin->apply(in);
      for (const torch::Tensor* answer :
           {&out.phi, &out.dphi_dcos, &out.dphi_dnorm, &out.scale, &out.dscale_dnorm, &out.penalty,
            &out.dpenalty_dnorm, &out.p0, &out.p1})
        if (answer->defined()) {
          EXPECT_EQ(answer->scalar_type(), type);
          EXPECT_TRUE(answer->isfinite().all().item<bool>()) << *answer;
        }
      in.target[6] = NAN;
      EXPECT_TRUE(make("{name: " + entry.name + "}")->apply(in).phi[6].isnan().item<bool>());
    }
}

}  // namespace
}  // namespace facetrain
