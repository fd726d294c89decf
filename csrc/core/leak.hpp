// Keeps a value for ever: in a forked child, what holds threads of the parent can be neither used nor ended.
#pragma once

#include <memory>
#include <utility>

namespace streamload {

template <class T>
void leak(T value) {
  [[maybe_unused]] const T* const kept = std::make_unique<T>(std::move(value)).release();
}

}  // namespace streamload
