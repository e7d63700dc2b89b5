#include "data/image_codec.h"

#include <png.h>
#include <turbojpeg.h>
#include <zlib.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <memory>

#include "core/check.h"

namespace facetrain {
namespace {

// A header may promise any size: refuse what no face data set holds before memory is asked for.
constexpr int64_t kMaxPixels = int64_t{1} << 27;

void check_size(int64_t width, int64_t height) {
  FT_CHECK(width > 0 && height > 0 && width <= kMaxPixels / height,
           "image of {} x {} pixels: wanted at least 1 x 1 and at most {} pixels in all", width,
           height, kMaxPixels);
}

bool starts_with(std::span<const uint8_t> bytes, std::string_view prefix) {
  return bytes.size() >= prefix.size() &&
         std::memcmp(bytes.data(), prefix.data(), prefix.size()) == 0;
}

ImageFormat format_of(std::span<const uint8_t> bytes) {
  if (starts_with(bytes, "\xff\xd8\xff")) return ImageFormat::kJpeg;
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) return ImageFormat::kPng;
  if (starts_with(bytes, "P5") || starts_with(bytes, "P6")) return ImageFormat::kPnm;
  FT_FAIL("{} bytes are neither JPEG, PNG, binary PGM (P5) nor binary PPM (P6)", bytes.size());
}

// ---------------------------------------------------------------------------------------- JPEG

// libjpeg-turbo's handles are costly to make and must not be shared: one of each kind a thread.
struct TurboHandle {
  explicit TurboHandle(tjhandle made) : handle(made) {
    FT_CHECK(handle != nullptr, "libjpeg-turbo gave no handle: {}", tjGetErrorStr2(nullptr));
  }
  ~TurboHandle() { tjDestroy(handle); }
  TurboHandle(const TurboHandle&) = delete;
  TurboHandle& operator=(const TurboHandle&) = delete;
  tjhandle handle;
};

std::unique_ptr<TurboHandle>& decompressor_slot() {
  thread_local std::unique_ptr<TurboHandle> slot;
  return slot;
}

tjhandle decompressor() {
  auto& slot = decompressor_slot();
  if (!slot) slot = std::make_unique<TurboHandle>(tjInitDecompress());
  return slot->handle;
}

// After a damaged header libjpeg-turbo stands in the middle of it and would take the next image for
// its rest; only tjDecompress2 cleans up behind itself. So that handle is given up.
[[noreturn]] void fail_jpeg_header() {
  const std::string reason = tjGetErrorStr2(decompressor());
  decompressor_slot().reset();
  FT_FAIL("JPEG header: {}", reason);
}

tjhandle compressor() {
  thread_local TurboHandle turbo(tjInitCompress());
  return turbo.handle;
}

ImageInfo probe_jpeg(std::span<const uint8_t> bytes) {
  int width = 0, height = 0, chroma = 0, colours = 0;
  const int result = tjDecompressHeader3(decompressor(), bytes.data(), bytes.size(), &width,
                                         &height, &chroma, &colours);
  if (result != 0) fail_jpeg_header();
  FT_CHECK(colours != TJCS_CMYK && colours != TJCS_YCCK,
           "JPEG holds four colour channels (CMYK): convert it to RGB");
  check_size(width, height);
  return {ImageFormat::kJpeg, width, height, colours == TJCS_GRAY ? 1 : 3};
}

void decode_jpeg(std::span<const uint8_t> bytes, const ImageInfo& info, uint8_t* out) {
  // The accurate transform gives the pixels that other decoders give; the limit on scans bounds
  // the time that a forged progressive file can take. A warning means that pixels are missing.
  constexpr int kFlags = TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS | TJFLAG_STOPONWARNING;
  const int result = tjDecompress2(decompressor(), bytes.data(), bytes.size(), out, info.width, 0,
                                   info.height, TJPF_RGB, kFlags);
  FT_CHECK(result == 0, "JPEG of {} bytes: {}", bytes.size(), tjGetErrorStr2(decompressor()));
}

// ----------------------------------------------------------------------------------------- PNG

// libpng leaves an error by longjmp, which skips destructors. So every function between setjmp and
// libpng's call holds plain values only, and what must be freed lives in these two structs.
struct PngFailure {
  std::jmp_buf jump;
  char message[128] = {};
};

[[noreturn]] void on_png_error(png_structp png, png_const_charp message) {
  auto* failure = static_cast<PngFailure*>(png_get_error_ptr(png));
  std::strncpy(failure->message, message, sizeof(failure->message) - 1);
  std::longjmp(failure->jump, 1);
}

void on_png_warning(png_structp, png_const_charp) {}

struct PngReader {
  explicit PngReader(std::span<const uint8_t> bytes) : rest(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &failure, on_png_error, on_png_warning);
    if (png != nullptr) info = png_create_info_struct(png);
    FT_CHECK(info != nullptr, "libpng gave no reader");
    png_set_read_fn(png, this, read);
    // Only what makes pixels is read (colour profiles in the wild are often malformed), and there
    // neither a wrong checksum nor too little or too much data is forgiven.
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_benign_errors(png, 0);
    png_set_user_limits(png, 1 << 20, 1 << 20);
  }
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  static void read(png_structp png, png_bytep out, size_t count) {
    auto* self = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > self->rest.size()) png_error(png, "file ends before the image does");
    std::memcpy(out, self->rest.data(), count);
    self->rest = self->rest.subspan(count);
  }

  std::span<const uint8_t> rest;
  PngFailure failure;
  png_structp png = nullptr;
  png_infop info = nullptr;
};

bool read_png_header(PngReader& reader) {
  if (setjmp(reader.failure.jump) != 0) return false;
  png_read_info(reader.png, reader.info);
  return true;
}

// Reads all rows, after the transforms that make them 8-bit RGB or, for a mask, raw 8-bit numbers.
bool read_png_rows(PngReader& reader, bool raw, size_t row_bytes, png_bytepp rows) {
  if (setjmp(reader.failure.jump) != 0) return false;
  if (raw) {
    png_set_packing(reader.png);
  } else {
    png_set_expand(reader.png);
    png_set_scale_16(reader.png);
    png_set_strip_alpha(reader.png);
    png_set_gray_to_rgb(reader.png);
  }
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  if (png_get_rowbytes(reader.png, reader.info) != row_bytes) {
    png_error(reader.png, "rows have an unexpected length");
  }
  png_read_image(reader.png, rows);
  png_read_end(reader.png, nullptr);
  return true;
}

ImageInfo read_png_info(PngReader& reader) {
  FT_CHECK(read_png_header(reader), "PNG header: {}", reader.failure.message);
  const auto width = png_get_image_width(reader.png, reader.info);
  const auto height = png_get_image_height(reader.png, reader.info);
  check_size(width, height);
  const bool colour = (png_get_color_type(reader.png, reader.info) & PNG_COLOR_MASK_COLOR) != 0;
  return {ImageFormat::kPng, static_cast<int>(width), static_cast<int>(height), colour ? 3 : 1};
}

void read_png_pixels(PngReader& reader, bool raw, int width, int height, uint8_t* out) {
  const size_t row_bytes = static_cast<size_t>(width) * (raw ? 1 : 3);
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  for (size_t row = 0; row < rows.size(); ++row) rows[row] = out + row * row_bytes;
  FT_CHECK(read_png_rows(reader, raw, row_bytes, rows.data()), "PNG: {}", reader.failure.message);
}

void decode_png(std::span<const uint8_t> bytes, uint8_t* out) {
  PngReader reader(bytes);
  const ImageInfo info = read_png_info(reader);
  read_png_pixels(reader, false, info.width, info.height, out);
}

struct PngWriter {
  PngWriter() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &failure, on_png_error, on_png_warning);
    if (png != nullptr) info = png_create_info_struct(png);
    FT_CHECK(info != nullptr, "libpng gave no writer");
    png_set_write_fn(png, this, write, nullptr);
  }
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  static void write(png_structp png, png_bytep data, size_t count) {
    auto* self = static_cast<PngWriter*>(png_get_io_ptr(png));
    self->bytes.insert(self->bytes.end(), data, data + count);
  }

  PngFailure failure;
  std::vector<uint8_t> bytes;
  png_structp png = nullptr;
  png_infop info = nullptr;
};

bool write_png(PngWriter& writer, const Image& image) {
  if (setjmp(writer.failure.jump) != 0) return false;
  png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8,
               image.channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (image.channels == 1) {  // class numbers: what repays the effort is runs of equal bytes
    png_set_filter(writer.png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE);
    png_set_compression_strategy(writer.png, Z_RLE);
  }
  png_write_info(writer.png, writer.info);
  const size_t row_bytes = static_cast<size_t>(image.width) * static_cast<size_t>(image.channels);
  for (int row = 0; row < image.height; ++row) {
    png_write_row(writer.png, image.pixels.data() + static_cast<size_t>(row) * row_bytes);
  }
  png_write_end(writer.png, nullptr);
  return true;
}

// ----------------------------------------------------------------------------------------- PNM

struct PnmHeader {
  ImageInfo info;
  int max_value;
  size_t raster;  // where the pixels start
};

bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The next decimal number; white space and comments (from '#' to the line's end) come before it.
int64_t read_pnm_number(std::span<const uint8_t> bytes, size_t& at) {
  while (at < bytes.size() && (is_space(bytes[at]) || bytes[at] == '#')) {
    if (bytes[at] == '#') {
      while (at < bytes.size() && bytes[at] != '\n' && bytes[at] != '\r') ++at;
    } else {
      ++at;
    }
  }
  const size_t first = at;
  int64_t value = 0;
  for (; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9' && at - first < 10; ++at) {
    value = value * 10 + (bytes[at] - '0');
  }
  FT_CHECK(at > first, "PNM header: wanted a number at byte {}", first);
  return value;
}

PnmHeader read_pnm_header(std::span<const uint8_t> bytes) {
  const int channels = bytes[1] == '6' ? 3 : 1;
  size_t at = 2;
  FT_CHECK(at < bytes.size() && (is_space(bytes[at]) || bytes[at] == '#'),
           "PNM header: wanted white space after the magic number");
  const int64_t width = read_pnm_number(bytes, at);
  const int64_t height = read_pnm_number(bytes, at);
  const int64_t max_value = read_pnm_number(bytes, at);
  check_size(width, height);
  FT_CHECK(max_value >= 1 && max_value <= 255,
           "PNM with greatest value {}: wanted 1 to 255 (one byte a sample)", max_value);
  FT_CHECK(at < bytes.size() && is_space(bytes[at]),
           "PNM header: wanted one white space before the pixels");
  return {{ImageFormat::kPnm, static_cast<int>(width), static_cast<int>(height), channels},
          static_cast<int>(max_value),
          at + 1};
}

void decode_pnm(std::span<const uint8_t> bytes, uint8_t* out) {
  const PnmHeader header = read_pnm_header(bytes);
  const int channels = header.info.channels, max_value = header.max_value;
  const auto pixels = static_cast<size_t>(header.info.width) * header.info.height;
  const auto raster = bytes.subspan(header.raster);
  FT_CHECK(raster.size() >= pixels * channels, "PNM: wanted {} bytes of pixels, found {}",
           pixels * channels, raster.size());
  for (size_t i = 0; i < pixels * channels; ++i) {
    FT_CHECK(raster[i] <= max_value, "PNM: sample {} is above the greatest value {}", raster[i],
             max_value);
    const auto value = static_cast<uint8_t>((raster[i] * 255 + max_value / 2) / max_value);
    if (channels == 3) {
      out[i] = value;
    } else {
      std::fill_n(out + 3 * i, 3, value);
    }
  }
}

void check_image(const Image& image) {
  check_size(image.width, image.height);
  FT_CHECK(image.channels == 1 || image.channels == 3, "image with {} channels: wanted 1 or 3",
           image.channels);
  const size_t wanted = static_cast<size_t>(image.width) * image.height * image.channels;
  FT_CHECK(image.pixels.size() == wanted, "image of {} x {} x {} with {} bytes: wanted {}",
           image.height, image.width, image.channels, image.pixels.size(), wanted);
}

void decode_known(std::span<const uint8_t> bytes, const ImageInfo& info, uint8_t* out) {
  switch (info.format) {
    case ImageFormat::kJpeg:
      return decode_jpeg(bytes, info, out);
    case ImageFormat::kPng:
      return decode_png(bytes, out);
    case ImageFormat::kPnm:
      return decode_pnm(bytes, out);
  }
}

}  // namespace

ImageInfo probe_image(std::span<const uint8_t> bytes) {
  switch (format_of(bytes)) {
    case ImageFormat::kJpeg:
      return probe_jpeg(bytes);
    case ImageFormat::kPnm:
      return read_pnm_header(bytes).info;
    case ImageFormat::kPng:
      break;
  }
  PngReader reader(bytes);
  return read_png_info(reader);
}

Image decode_image(std::span<const uint8_t> bytes) {
  const ImageInfo info = probe_image(bytes);
  Image image{info.width, info.height, 3, {}};
  image.pixels.resize(static_cast<size_t>(info.width) * info.height * 3);
  decode_known(bytes, info, image.pixels.data());
  return image;
}

void decode_image_into(std::span<const uint8_t> bytes, std::span<uint8_t> out) {
  decode_image_into(bytes, probe_image(bytes), out);
}

void decode_image_into(std::span<const uint8_t> bytes, const ImageInfo& info,
                       std::span<uint8_t> out) {
  const size_t wanted = static_cast<size_t>(info.width) * info.height * 3;
  FT_CHECK(out.size() == wanted, "image of {} x {}: wanted room for {} bytes, found {}", info.width,
           info.height, wanted, out.size());
  decode_known(bytes, info, out.data());
}

Image decode_mask(std::span<const uint8_t> bytes) {
  FT_CHECK(format_of(bytes) == ImageFormat::kPng, "mask: wanted a PNG, which keeps class numbers");
  PngReader reader(bytes);
  const ImageInfo info = read_png_info(reader);
  const int kind = png_get_color_type(reader.png, reader.info);
  FT_CHECK(kind == PNG_COLOR_TYPE_GRAY || kind == PNG_COLOR_TYPE_PALETTE,
           "mask: wanted a PNG with one channel (grey or palette), found colour or alpha");
  FT_CHECK(png_get_bit_depth(reader.png, reader.info) <= 8, "mask: wanted at most 8 bits a pixel");
  Image mask{info.width, info.height, 1, {}};
  mask.pixels.resize(static_cast<size_t>(info.width) * info.height);
  read_png_pixels(reader, true, info.width, info.height, mask.pixels.data());
  return mask;
}

std::vector<uint8_t> encode_jpeg(const Image& image, int quality, Chroma chroma) {
  check_image(image);
  FT_CHECK(quality >= 1 && quality <= 100, "JPEG quality {}: wanted 1 to 100", quality);
  const bool grey = image.channels == 1;
  const int sampling = grey ? TJSAMP_GRAY : chroma == Chroma::k420 ? TJSAMP_420 : TJSAMP_444;
  unsigned long size = tjBufSize(image.width, image.height, sampling);
  FT_CHECK(size != static_cast<unsigned long>(-1), "JPEG: {} x {} is too large", image.width,
           image.height);
  std::vector<uint8_t> bytes(size);
  unsigned char* out = bytes.data();
  const int result = tjCompress2(compressor(), image.pixels.data(), image.width, 0, image.height,
                                 grey ? TJPF_GRAY : TJPF_RGB, &out, &size, sampling, quality,
                                 TJFLAG_ACCURATEDCT | TJFLAG_NOREALLOC);
  FT_CHECK(result == 0, "JPEG: {}", tjGetErrorStr2(compressor()));
  bytes.resize(size);
  return bytes;
}

std::vector<uint8_t> encode_png(const Image& image) {
  check_image(image);
  PngWriter writer;
  FT_CHECK(write_png(writer, image), "PNG: {}", writer.failure.message);
  return std::move(writer.bytes);
}

std::string to_string(ImageFormat format) {
  switch (format) {
    case ImageFormat::kJpeg:
      return "jpeg";
    case ImageFormat::kPng:
      return "png";
    case ImageFormat::kPnm:
      return "pnm";
  }
  FT_FAIL("image format {} is unknown", static_cast<int>(format));
}

}  // namespace facetrain
