// A CUDA GPU, through the driver loaded at run time and in the device's primary context, which is also torch's.
//
// Thread-safe: but for what the copier learns of its driver, immutable once made. Every method works on any thread:
// where the device's context is not the thread's current one, it is made so for the call and undone after it.
// enter_thread makes it current for good, which a thread that makes many calls should do first.
//
// Streams of the caller: handle 0 is the legacy default stream of this device's context, as torch's default stream
// is; 1 (CU_STREAM_LEGACY) and 2 (CU_STREAM_PER_THREAD, the calling thread's own) are passed through. The streams
// made here never synchronise with the legacy stream on their own: order comes from events alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/cuda_api.hpp"
#include "device/cuda_copier.hpp"
#include "device/device.hpp"

namespace streamload {

struct CudaProperties {
  std::string name;        // "NVIDIA H200"
  std::string pci_bus_id;  // "0000:3b:00.0", as in /sys/bus/pci/devices
  int compute_major = 0;
  int compute_minor = 0;
  std::uint64_t total_bytes = 0;
  int driver_version = 0;  // the CUDA version the driver offers: 1000 * major + 10 * minor
  int numa_node = -1;      // node nearest to the device; -1 where the system does not say
};

// Calls visit(name, value) for every property.
template <class Visit>
void for_each_field(const CudaProperties& facts, Visit&& visit) {
  visit("name", facts.name);
  visit("pci_bus_id", facts.pci_bus_id);
  visit("compute_major", facts.compute_major);
  visit("compute_minor", facts.compute_minor);
  visit("total_bytes", facts.total_bytes);
  visit("driver_version", facts.driver_version);
  visit("numa_node", facts.numa_node);
}

// The NUMA node of a PCI device, or -1. `devices_dir` is the kernel's list of PCI devices.
[[nodiscard]] int pci_numa_node(const std::string& pci_bus_id, const std::string& devices_dir = "/sys/bus/pci/devices");

class CudaDevice final : public Device {
  struct Key {};  // only `make` can name it, so only `make` constructs

 public:
  // Opens device `ordinal` (as the driver counts, after CUDA_VISIBLE_DEVICES) and retains its primary context.
  // kNoDevice where there is no usable driver or no such device.
  [[nodiscard]] static Status make(int ordinal, const std::string& library, std::shared_ptr<CudaDevice>& out);
  CudaDevice(Key, std::shared_ptr<const CudaApi> api, int ordinal, CuDevice device, CuContext context) noexcept;
  // Releases the context; harmless after the driver has shut down and in a forked child.
  ~CudaDevice() override;

  [[nodiscard]] std::string name() const override { return "cuda:" + std::to_string(ordinal_); }
  [[nodiscard]] int ordinal() const noexcept { return ordinal_; }
  [[nodiscard]] Status properties(CudaProperties& out) const;

  [[nodiscard]] bool fills_in_place() const noexcept override { return false; }
  [[nodiscard]] bool waits_on_host() const noexcept override { return false; }
  // kForked in a child of the process that opened the device: no CUDA call can succeed there.
  [[nodiscard]] Status enter_thread() noexcept override;

  [[nodiscard]] Status create_stream(StreamView& out) noexcept override;
  void destroy_stream(StreamView stream) noexcept override;
  void expedite(StreamView) noexcept override {}
  void drain(StreamView stream) noexcept override;

  [[nodiscard]] Status create_event(EventView& out) noexcept override;
  void destroy_event(EventView event) noexcept override;
  [[nodiscard]] Status record(EventView event, StreamView stream) noexcept override;
  [[nodiscard]] Status wait(StreamView stream, EventView event) noexcept override;
  [[nodiscard]] Status query(EventView event, bool& done) noexcept override;
  [[nodiscard]] Status synchronize(EventView event) noexcept override;

  [[nodiscard]] Status copy_blocks(std::span<const CopyBlock> blocks, StreamView stream) noexcept override;
  [[nodiscard]] Status poison(DeviceSpan memory, StreamView stream) noexcept override;

  // Memory that cannot be pinned is kOutOfPinnedMemory when the system's limit is the reason, else kDeviceFailed.
  // Nothing stays behind: a failed driver call, unlike one of the CUDA runtime, is not reported a second time.
  [[nodiscard]] Status pin(HostSpan memory) noexcept override;
  void unpin(HostSpan memory) noexcept override;
  // The driver: memory is registered for all its contexts.
  [[nodiscard]] std::uintptr_t pin_domain() const noexcept override;
  // Read anew each time; -1 in a forked child too.
  [[nodiscard]] int numa_node() const noexcept override;

  [[nodiscard]] Status allocate(std::size_t nbytes, DeviceSpan& out) noexcept override;
  void deallocate(DeviceSpan memory) noexcept override;
  // Not ordered with streams made here: synchronize an event recorded after the last copy into `source` first.
  [[nodiscard]] Status read_back(HostSpan target, DeviceSpan source) noexcept override;

  // By the device's own clock.
  [[nodiscard]] Status measure_link(std::size_t nbytes, int repeats, std::vector<double>& seconds) override;

 private:
  struct CurrentContext;
  struct Extent {  // the bytes a failed call was about, for its text
    std::size_t nbytes;
    const char* word;  // " to ", " from ", " at "; unused without an address
    std::uintptr_t address;
  };

  // Runs one driver call in the device's context; its failure becomes a Status that names the call.
  template <class Call>
  [[nodiscard]] Status run(const char* name, const Call& call, Extent extent = {}) const;
  [[nodiscard]] Status failure(const char* name, CuResult result, Extent extent) const;
  // The same for a call that gives something back. Its result is dropped: nobody could act on it, an error of
  // earlier work has been or will be told by the call that waits for that work, and a driver that has shut down
  // (CUDA_ERROR_DEINITIALIZED, at the end of a process) has nothing left to give back.
  template <class Call>
  void release(const Call& call) const noexcept;
  [[nodiscard]] bool in_forked_child() const noexcept;
  [[nodiscard]] CuResult find_bus_id(std::string& out) const;

  [[nodiscard]] Status create_event_with(unsigned flags, EventView& out);
  [[nodiscard]] Status time_copy(DeviceSpan target, ConstHostSpan source, StreamView stream, EventView start,
                                 EventView end, double& seconds);

  const std::shared_ptr<const CudaApi> api_;
  const int ordinal_;
  const CuDevice device_;
  const CuContext context_;
  const int process_;  // who opened it
  CudaCopier copier_;
};

}  // namespace streamload
