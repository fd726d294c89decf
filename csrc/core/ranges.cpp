#include "core/ranges.hpp"

#ifdef STREAMLOAD_NVTX
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <string>
#endif

namespace streamload {

#ifdef STREAMLOAD_NVTX
namespace {

constexpr std::array kNames = {"read", "copy", "land", "wait"};  // by RangeKind

// What a profiler knows of us; asked for once, since none can be attached later. NVTX's own state lives as long as the
// process, and so does this.
struct Listener {
  nvtxDomainHandle_t domain = nvtxDomainCreateA("streamload");  // null: nobody listens
  std::array<nvtxStringHandle_t, kNames.size()> names{};

  Listener() noexcept {
    if (domain == nullptr) return;
    for (std::size_t i = 0; i < kNames.size(); ++i) names[i] = nvtxDomainRegisterStringA(domain, kNames[i]);
  }
};

const Listener& listener() noexcept {
  static const Listener known;
  return known;
}

nvtxEventAttributes_t attributes(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept {
  nvtxEventAttributes_t found{};
  found.version = NVTX_VERSION;
  found.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  found.category = group + 1;  // 0 is none
  found.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  found.payload.ullValue = nbytes;
  found.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  found.message.registered = listener().names[static_cast<std::size_t>(kind)];
  return found;
}

}  // namespace

bool ranges_built() noexcept { return true; }
bool ranges_wanted() noexcept { return listener().domain != nullptr; }

void name_groups(std::uint32_t count) noexcept {
  if (!ranges_wanted()) return;
  for (std::uint32_t group = 0; group < count; ++group) {
    nvtxDomainNameCategoryA(listener().domain, group + 1, ("group " + std::to_string(group)).c_str());
  }
}

void Range::push(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept {
  const nvtxEventAttributes_t event = attributes(kind, group, nbytes);
  nvtxDomainRangePushEx(listener().domain, &event);
}

void Range::pop() noexcept { nvtxDomainRangePop(listener().domain); }

std::uint64_t RangeUnderWay::start(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept {
  const nvtxEventAttributes_t event = attributes(kind, group, nbytes);
  return nvtxDomainRangeStartEx(listener().domain, &event);
}

void RangeUnderWay::stop(std::uint64_t id) noexcept { nvtxDomainRangeEnd(listener().domain, id); }

#else

bool ranges_built() noexcept { return false; }
bool ranges_wanted() noexcept { return false; }
void name_groups(std::uint32_t) noexcept {}
void Range::push(RangeKind, std::uint32_t, std::size_t) noexcept {}
void Range::pop() noexcept {}
std::uint64_t RangeUnderWay::start(RangeKind, std::uint32_t, std::size_t) noexcept { return 0; }
void RangeUnderWay::stop(std::uint64_t) noexcept {}

#endif

}  // namespace streamload
