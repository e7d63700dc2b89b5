// Where the time of a step goes, as the host sees it: seconds by the name of a phase.
//
// On a GPU the host hands out work and waits later, so there the wait for the device stands in the
// phase that asks for a result ("verdict").
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <utility>

namespace facetrain {

class PhaseClock {
 public:
  class Scope {
   public:
    explicit Scope(double& total) : total_(total) {}
    ~Scope() {
      total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    double& total_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };
  // Counts for `phase` until the end of the scope; phases do not nest.
  [[nodiscard]] Scope time(const std::string& phase) { return Scope(seconds_[phase]); }
  // Seconds since the last call.
  std::map<std::string, double> take() { return std::exchange(seconds_, {}); }

 private:
  std::map<std::string, double> seconds_;
};

}  // namespace facetrain
