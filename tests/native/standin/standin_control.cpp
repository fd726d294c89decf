// The controls exported to tests.
#include <algorithm>
#include <cstring>
#include <limits>

#include "standin/standin.hpp"
#include "standin/standin_state.hpp"

namespace {

using standin::State;

void write_text(const std::string& from, char* text, std::size_t nbytes) {
  if (text == nullptr || nbytes == 0) return;
  const std::size_t kept = std::min(from.size(), nbytes - 1);
  std::memcpy(text, from.data(), kept);
  text[kept] = '\0';
}

}  // namespace

void standin_reset() {
  std::unique_lock lock(State::get().mutex);
  State::get().reset(lock);
}

void standin_fail(const char* function, std::uint64_t k, int result) {
  const std::scoped_lock lock(State::get().mutex);
  State::get().failures[function] = {k, standin::CuResult(result)};
}

void standin_hide(const char* function) {
  const std::scoped_lock lock(State::get().mutex);
  State::get().hidden.insert(function);
}

void standin_set_driver_version(int version) {
  const std::scoped_lock lock(State::get().mutex);
  State::get().driver_version = version;
}

void standin_set_device_count(int count) {
  const std::scoped_lock lock(State::get().mutex);
  State::get().device_count = std::clamp(count, 0, standin::kDevices);
}

void standin_shut_down() {
  const std::scoped_lock lock(State::get().mutex);
  State::get().shut_down = true;
}

void standin_hold_copies() {
  const std::scoped_lock lock(State::get().mutex);
  State::get().copies_allowed = 0;
}

void standin_release_copies(std::uint64_t count) {
  State& state = State::get();
  const std::scoped_lock lock(state.mutex);
  if (state.copies_allowed != standin::kUnlimited) state.copies_allowed += count;
  state.changed.notify_all();
}

void standin_release_all_copies() {
  State& state = State::get();
  const std::scoped_lock lock(state.mutex);
  state.copies_allowed = standin::kUnlimited;
  state.changed.notify_all();
}

std::uint64_t standin_calls(const char* function) {
  const std::scoped_lock lock(State::get().mutex);
  return State::get().calls[function];
}

std::uint64_t standin_count(const char* what) {
  State& state = State::get();
  const std::scoped_lock lock(state.mutex);
  const std::string_view wanted = what;
  if (wanted == "copies_issued") return state.counters.copies_issued;
  if (wanted == "copies_done") return state.counters.copies_done;
  if (wanted == "bytes_copied") return state.counters.bytes_copied;
  if (wanted == "unpinned_copies") return state.counters.unpinned_copies;
  if (wanted == "in_flight") return state.operations_in_flight();
  if (wanted == "pushed") return State::stack().size();
  if (wanted == "streams") return state.streams.size();
  if (wanted == "events") return state.events.size();
  if (wanted == "allocations") return state.allocations.size();
  if (wanted == "registrations") return state.registrations.size();
  if (wanted == "contexts") {
    std::uint64_t retained = 0;
    for (const standin::Context& context : state.contexts) retained += context.retained;
    return retained;
  }
  return std::numeric_limits<std::uint64_t>::max();  // no test expects that many of anything: a misspelt word
}

std::uint64_t standin_violations(char* text, std::size_t nbytes) {
  const std::scoped_lock lock(State::get().mutex);
  std::string lines;
  for (const std::string& violation : State::get().violations) lines += violation + "\n";
  write_text(lines, text, nbytes);
  return State::get().violations.size();
}

std::uint64_t standin_live_objects(char* text, std::size_t nbytes) {
  const std::scoped_lock lock(State::get().mutex);
  std::string lines;
  const std::uint64_t total = State::get().live(-1, &lines);
  write_text(lines, text, nbytes);
  return total;
}
