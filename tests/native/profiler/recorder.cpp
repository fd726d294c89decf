#include "profiler/recorder.hpp"

#include <nvtx3/nvToolsExt.h>

#include <mutex>
#include <thread>
#include <utility>

using recorder::Record;
using recorder::Recorded;

namespace {

struct State {
  std::mutex mutex;
  std::vector<std::string> domains;
  std::vector<std::string> strings;
  std::map<std::uint32_t, std::string> categories;
  std::map<std::thread::id, std::vector<std::size_t>> open;  // ranges that each thread is in
  std::map<std::uint64_t, std::size_t> under_way;
  std::uint64_t next_id = 1;
  Record record;
};

State& state() {
  static State kept;
  return kept;
}

// A handle is a number from 1 on, disguised as a pointer.
template <class Handle>
Handle keep(std::vector<std::string>& texts, const char* text) {
  const std::lock_guard lock(state().mutex);
  texts.emplace_back(text);
  return reinterpret_cast<Handle>(texts.size());  // NOLINT(performance-no-int-to-ptr)
}

template <class Handle>
std::string find(const std::vector<std::string>& texts, Handle handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  return number > 0 && number <= texts.size() ? texts[number - 1] : "?";
}

// Under the lock.
Recorded describe(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  State& all = state();
  Recorded range;
  range.domain = find(all.domains, domain);
  range.name = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED ? find(all.strings, event->message.registered) : "?";
  if (const auto found = all.categories.find(event->category); found != all.categories.end()) {
    range.category = found->second;
  }
  range.bytes = event->payload.ullValue;
  range.thread = std::hash<std::thread::id>()(std::this_thread::get_id());
  if (event->version != NVTX_VERSION || event->payloadType != NVTX_PAYLOAD_TYPE_UNSIGNED_INT64) ++all.record.wrong;
  return range;
}

nvtxDomainHandle_t NVTX_API domain_create(const char* name) { return keep<nvtxDomainHandle_t>(state().domains, name); }

nvtxStringHandle_t NVTX_API register_string(nvtxDomainHandle_t, const char* text) {
  return keep<nvtxStringHandle_t>(state().strings, text);
}

void NVTX_API name_category(nvtxDomainHandle_t, std::uint32_t category, const char* name) {
  const std::lock_guard lock(state().mutex);
  state().categories[category] = name;
}

int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  const std::lock_guard lock(state().mutex);
  auto& open = state().open[std::this_thread::get_id()];
  Recorded range = describe(domain, event);
  range.pushed = true;
  range.depth = static_cast<int>(open.size());
  open.push_back(state().record.ranges.size());
  state().record.ranges.push_back(std::move(range));
  return static_cast<int>(open.size()) - 1;
}

int NVTX_API pop(nvtxDomainHandle_t) {
  const std::lock_guard lock(state().mutex);
  auto& open = state().open[std::this_thread::get_id()];
  if (open.empty()) {
    ++state().record.wrong;
    return NVTX_NO_PUSH_POP_TRACKING;
  }
  state().record.ranges[open.back()].ended = true;
  open.pop_back();
  return static_cast<int>(open.size());
}

nvtxRangeId_t NVTX_API start(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  const std::lock_guard lock(state().mutex);
  const std::uint64_t id = state().next_id++;
  state().under_way[id] = state().record.ranges.size();
  state().record.ranges.push_back(describe(domain, event));
  return id;
}

void NVTX_API end(nvtxDomainHandle_t, nvtxRangeId_t id) {
  const std::lock_guard lock(state().mutex);
  const auto found = state().under_way.find(id);
  if (found == state().under_way.end()) {
    ++state().record.wrong;
    return;
  }
  state().record.ranges[found->second].ended = true;
  state().under_way.erase(found);
}

template <class Function>
void put(NvtxFunctionTable table, unsigned int size, int id, Function* function) {
  if (static_cast<unsigned int>(id) < size) *table[id] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  put(table, size, NVTX_CBID_CORE2_DomainCreateA, domain_create);
  put(table, size, NVTX_CBID_CORE2_DomainRegisterStringA, register_string);
  put(table, size, NVTX_CBID_CORE2_DomainNameCategoryA, name_category);
  put(table, size, NVTX_CBID_CORE2_DomainRangePushEx, push);
  put(table, size, NVTX_CBID_CORE2_DomainRangePop, pop);
  put(table, size, NVTX_CBID_CORE2_DomainRangeStartEx, start);
  put(table, size, NVTX_CBID_CORE2_DomainRangeEnd, end);
  return 1;
}

// Only while nothing is open.
extern "C" __attribute__((visibility("default"))) void recorder_take(Record& out) {
  const std::lock_guard lock(state().mutex);
  out = std::exchange(state().record, {});
}
