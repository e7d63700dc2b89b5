// What an action says when it fails.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/check.h"

namespace facetrain {

// The message of the Error that `action` throws; "" and a failed test when it throws none.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "wanted an Error";
  return "";
}

inline void expect_parts(const std::string& text, std::initializer_list<std::string_view> parts) {
  for (const auto part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin: " << text;
}

// `action` must throw an Error whose message has every one of `parts`.
template <class Action>
void expect_error(Action&& action, std::initializer_list<std::string_view> parts) {
  expect_parts(error_of(action), parts);
}

}  // namespace facetrain
