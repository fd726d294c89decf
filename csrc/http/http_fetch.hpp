// One range on its way, over however many requests it takes. A loop's own once it was handed in.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>

#include "http/transfer.hpp"
#include "io/source.hpp"

namespace streamload {

struct HttpFetch {
  using Clock = std::chrono::steady_clock;

  enum class State : std::uint8_t {
    kWaiting,   // for one of the requests that may be under way
    kRunning,   // at least one request is
    kResting,   // until the next attempt
    kRenewing,  // somebody asks for a new URL
    kDone,
  };

  HttpFetch(std::shared_ptr<HttpObject> of, std::uint64_t from, std::vector<HostSpan> targets, std::stop_token until,
            FetchDone then)
      : object(std::move(of)),
        offset(from),
        target(std::move(targets)),
        stop(std::move(until)),
        done(std::move(then)) {}

  const std::shared_ptr<HttpObject> object;
  const std::uint64_t offset;  // in the object
  Scatter target;
  const std::stop_token stop;
  FetchDone done;
  std::optional<std::stop_callback<std::function<void()>>> on_stop;  // wakes the loop

  State state = State::kWaiting;
  std::shared_ptr<const HttpRequest> request;  // empty: as the object says by then
  std::size_t received = 0;                    // bytes from the start that are in place
  std::size_t counted = 0;                     // of them, when that last was progress
  Clock::time_point progress;                  // when that was, or it began
  Clock::time_point due;                       // when to look at it next
  int attempts = 0;
  unsigned fruitless = 0;  // attempts in a row that brought nothing
  int strange = 0;         // answers
  int redirects = 0;       // in a row
  bool renewed = false;    // since it last brought bytes
  bool went_back = false;  // from a redirect to where it came from, likewise
  TransferEnd failure;     // the latest
  FetchCounts counts;

  std::unique_ptr<Transfer> first;
  // The second request for what the first is slow with, into memory of its own: never two that write to one place.
  std::unique_ptr<Transfer> second;
  std::vector<std::byte> spare;
  std::unique_ptr<Scatter> spare_target;
  bool hedged = false;  // this attempt
};

}  // namespace streamload
