// Embedding a set over ranks, the mirrored image, and the features that need no training.
#include "eval/embedder.h"

#include <gtest/gtest.h>

#include <atomic>

#include "comm/thread_comm.h"
#include "core/check.h"
#include "core/torch.h"
#include "eval/baselines.h"

namespace facetrain {
namespace {

// Image k of 2 x 4 pixels holds k everywhere but in its left column, which holds k + 100.
class Numbers : public Source {
 public:
  explicit Numbers(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Sample read(int64_t index) const override {
    at::Tensor image = torch::full({2, index == bad_ ? 5 : 4, 3}, index, torch::kByte);
    image.select(1, 0).fill_(index + 100);
    Sample sample;
    sample.fields["image"] = image;
    return sample;
  }
  int64_t identity(int64_t) const override { return -1; }
  int64_t identities() const override { return 0; }
  std::string describe(int64_t index) const override { return "number " + std::to_string(index); }
  std::string name() const override { return "numbers"; }
  int64_t bad_ = -1;

 private:
  int64_t size_;
};

// [left pixel, right pixel, rows of the batch]
at::Tensor corners(const at::Tensor& images) {
  const at::Tensor top = images.select(1, 0).select(2, 0).to(torch::kFloat);  // [B, W]
  return torch::stack(
      {top.select(1, 0), top.select(1, 3), torch::full({images.size(0)}, images.size(0))}, 1);
}

TEST(Embedder, SameRowsAtAnyWorldSize) {
  for (const int64_t count : {1, 3, 8, 13}) {
    const Numbers source(count);
    for (const int ranks : {1, 2, 3, 4}) {
      std::atomic<int> checked = 0;
      run_thread_ranks(ranks, [&](Communicator& comm) {
        ASSERT_EQ(comm.size(), ranks);
        const at::Tensor rows = embed_source(source, corners, {.batch = 3, .flip = false}, comm);
        ASSERT_EQ(rows.sizes(), (std::vector<int64_t>{count, 3}));
        for (int64_t k = 0; k < count; ++k) {
          EXPECT_EQ(rows[k][0].item<float>(), static_cast<float>(k + 100));
          EXPECT_EQ(rows[k][1].item<float>(), static_cast<float>(k));
          // Batches are cut from the set, not from the rank's part of it.
          EXPECT_EQ(rows[k][2].item<float>(),
                    static_cast<float>(std::min<int64_t>(3, count - k / 3 * 3)));
        }
        ++checked;
      });
      EXPECT_EQ(checked, ranks);
    }
  }
}

TEST(Embedder, SaysHowFarItIs) {
  const Numbers source(8);
  const auto said = [&](int ranks, double every) {
    ::testing::internal::CaptureStdout();
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      embed_source(source, corners, {.batch = 3, .flip = false, .tell_every = every}, comm);
    });
    return ::testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(said(1, 0), "embedding: 3 of 8 images\nembedding: 6 of 8 images\n");
  EXPECT_EQ(said(2, 0), "") << "three batches: rank 0 has one, and is done with it";
  EXPECT_EQ(said(1, 3600), "");
}

TEST(Embedder, FlipAddsTheMirroredImage) {
  run_thread_ranks(2, [](Communicator& comm) {
    const at::Tensor rows = embed_source(Numbers(5), corners, {.batch = 2, .flip = true}, comm);
    for (int64_t k = 0; k < 5; ++k) {
      EXPECT_EQ(rows[k][0].item<float>(), static_cast<float>(2 * k + 100));
      EXPECT_EQ(rows[k][1].item<float>(), static_cast<float>(2 * k + 100));
    }
  });
}

TEST(Embedder, RefusesImagesOfSeveralSizesAndEmptySets) {
  Numbers source(4);
  source.bad_ = 1;
  run_thread_ranks(1, [&](Communicator& comm) {
    try {
      embed_source(source, corners, {}, comm);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "number 1: this image is 5 x 2, others of the set are 4 x 2; set data.size and "
                   "data.fit=resize");
    }
    EXPECT_THROW(embed_source(Numbers(0), corners, {}, comm), Error);
  });
}

TEST(Baselines, PixelsAreCentred) {
  at::Tensor images = torch::zeros({2, 1, 2, 3}, torch::kByte);
  images[1] = 255;
  const at::Tensor rows = pixel_features(images);
  EXPECT_EQ(rows.sizes(), (std::vector<int64_t>{2, 6}));
  EXPECT_TRUE((rows[0] == -127.5).all().item<bool>());
  EXPECT_TRUE((rows[1] == 127.5).all().item<bool>());
}

TEST(Baselines, HistogramIgnoresWhereColoursAre) {
  at::Tensor images = torch::zeros({3, 2, 2, 3}, torch::kByte);
  images[0][0][0] = 255;     // one white pixel of four, three black
  images[1][1][1] = 224;     // elsewhere, and in the same cell of 32
  images[2][0][0][0] = 255;  // red
  const at::Tensor rows = histogram_features(images);
  EXPECT_EQ(rows.size(1), 512);
  EXPECT_TRUE(torch::equal(rows[0], rows[1]));
  EXPECT_FLOAT_EQ(rows[0][511].item<float>(), 0.5f);
  EXPECT_FLOAT_EQ(rows[2][7 * 64].item<float>(), 0.5f);
  EXPECT_FLOAT_EQ(rows[0][0].item<float>(), std::sqrt(0.75f));
  EXPECT_TRUE(torch::allclose(rows.norm(2, 1), torch::ones(3)));
  EXPECT_THROW(histogram_features(torch::zeros({1, 2, 2, 3})), Error);
}

}  // namespace
}  // namespace facetrain
