// The transform `views`: fields, sizes, draws of their own, what the loader makes of them.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/torch.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "data/transform.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

const char* const kMultiCrop = R"([{name: views, views: [
  {field: global, count: 2, transforms: [{name: resized_crop, size: 12, smallest: 0.4}, {name: flip}]},
  {field: local, count: 3, transforms: [{name: resized_crop, size: 8, largest: 0.4}]},
  {field: whole}]}])";

Sample sample_of(int64_t number) {
  const Image image = smooth_image(number, 24, 24);
  Sample sample;
  sample.fields["image"] =
      at::from_blob(const_cast<uint8_t*>(image.pixels.data()), {24, 24, 3}, at::kByte).clone();
  sample.fields["identity"] = at::scalar_tensor(number, at::kLong);
  return sample;
}

TEST(Views, EachHasItsOwnDrawsAndTheImageIsGone) {
  const Config list = Config::parse(kMultiCrop);
  resolve_transforms(list);
  const TransformList transforms = make_transforms(list);
  Sample a = sample_of(3), b = sample_of(3), other = sample_of(3);
  transforms.front().second->apply(a, 77);
  transforms.front().second->apply(b, 77);
  transforms.front().second->apply(other, 78);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : a.fields) {
    names.push_back(name);
    EXPECT_TRUE(tensor.equal(b.fields.at(name))) << name << ": a function of the key";
  }
  EXPECT_EQ(names, (std::vector<std::string>{"global.0", "global.1", "identity", "local.0",
                                             "local.1", "local.2", "whole"}));
  EXPECT_EQ(a.fields.at("global.1").size(0), 12);
  EXPECT_EQ(a.fields.at("local.2").size(0), 8);
  EXPECT_FALSE(a.fields.at("global.0").equal(a.fields.at("global.1")));
  EXPECT_FALSE(a.fields.at("local.0").equal(a.fields.at("local.1")));
  EXPECT_FALSE(a.fields.at("global.0").equal(other.fields.at("global.0")));
  EXPECT_TRUE(a.fields.at("whole").equal(sample_of(3).fields.at("image")));
}

TEST(Views, TheLoaderCollatesThem) {
  const auto folder = std::filesystem::temp_directory_path() / "facetrain_views_test";
  std::filesystem::remove_all(folder);
  for (int64_t i = 0; i < 6; ++i)
    write_file(folder / fmt::format("{}/a.jpg", i), encode_jpeg(smooth_image(i, 24, 24), 92));
  const std::shared_ptr<const Source> set = open_source("folder:" + folder.string(), {});
  const auto batches = [&](int64_t workers) {
    Config order;
    order.set_default_name("sequential");
    SamplerInput input;
    input.sets = {set};
    input.seed = 5;
    input.batch_size = 6;
    LoaderOptions options;
    options.batch_size = 6;
    options.workers = workers;
    options.seed = 5;
    Loader loader({set}, Samplers::get().create(order, input),
                  make_transforms(Config::parse(kMultiCrop)), options);
    return loader.next();
  };
  const Batch one = batches(1).front(), three = batches(3).front();
  EXPECT_FALSE(one.has("image"));
  EXPECT_EQ(one["global.1"].sizes(), (std::vector<int64_t>{6, 12, 12, 3}));
  EXPECT_EQ(one["local.2"].sizes(), (std::vector<int64_t>{6, 8, 8, 3}));
  for (const auto& [name, tensor] : one.fields) EXPECT_TRUE(tensor.equal(three[name])) << name;
  std::filesystem::remove_all(folder);
}

TEST(Views, BadListsAreNamed) {
  const auto fails = [](const std::string& views, const std::string& wanted) {
    expect_error(
        [&] { resolve_transforms(Config::parse("[{name: views, views: " + views + "}]")); },
        {wanted});
  };
  fails("[]", "found none");
  fails("[{count: 2}]", "wanted the field");
  fails("[{field: a}, {field: a}]", "second view of the field 'a'");
  fails("[{field: a, transforms: [{name: views}]}]", "views inside a view");
  fails("[{field: a, transforms: [{name: flop}]}]", "did you mean 'flip'");
}

}  // namespace
}  // namespace facetrain
