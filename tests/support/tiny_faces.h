// A folder per identity with small PPM pictures, made from counters: data for tests of whole runs.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "core/random.h"

namespace facetrain {

// Pictures of `size` pixels: a smooth pattern of the identity plus noise of the image, so that
// there is something to learn.
inline void write_tiny_faces(const std::filesystem::path& folder, int identities, int images,
                             int size) {
  for (int identity = 0; identity < identities; ++identity) {
    char name[16];
    std::snprintf(name, sizeof name, "id_%03d", identity);
    std::filesystem::create_directories(folder / name);
    for (int image = 0; image < images; ++image) {
      std::string pixels = "P6\n" + std::to_string(size) + " " + std::to_string(size) + "\n255\n";
      Random of_identity(random_key(7, identity)), of_image(random_key(9, identity, image));
      const double fx = of_identity.uniform(0.1, 0.9), fy = of_identity.uniform(0.1, 0.9);
      const double shade[3] = {of_identity.uniform(60, 190), of_identity.uniform(60, 190),
                               of_identity.uniform(60, 190)};
      for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x)
          for (const double base : shade)
            pixels.push_back(static_cast<char>(static_cast<unsigned char>(
                base + 40 * std::sin(fx * x + fy * y) + of_image.uniform(-20, 20))));
      char file[24];
      std::snprintf(file, sizeof file, "%03d.ppm", image);
      std::ofstream(folder / name / file, std::ios::binary) << pixels;
    }
  }
}

// An empty folder below the system's temporary one, removed at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "facetrain-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace facetrain
