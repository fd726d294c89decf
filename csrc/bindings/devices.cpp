// Devices: what they are, and their memory for tests and measurements.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/python.hpp"
#include "device/cuda_device.hpp"
#include "device/host_device.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

struct PyHostDevice : PyDevice {};
struct PyCudaDevice : PyDevice {};

std::vector<double> measure_link(const PyDevice& self, std::size_t nbytes, int repeats) {
  std::vector<double> seconds;
  run_released([&] { return self.device.get().measure_link(nbytes, repeats, seconds); });
  return seconds;
}

using FlatArray = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<double> time_copies(const PyDevice& self, const FlatArray& blocks, std::size_t blocks_per_call,
                                int repeats) {
  constexpr std::size_t kNumbersPerBlock = 6;
  if (blocks.size() % kNumbersPerBlock != 0) {
    throw_if_error(Status::failure(Code::kInvalid, "blocks take 6 numbers each"));
  }
  std::vector<CopyBlock> parsed;
  for (const std::uint64_t* row = blocks.data(); row != blocks.data() + blocks.size(); row += kNumbersPerBlock) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the caller's memory
    parsed.push_back({row[0], row[1], reinterpret_cast<const std::byte*>(row[2]), row[3], row[4], row[5]});
  }
  std::vector<double> seconds;
  run_released([&] { return self.device.get().time_copies(parsed, blocks_per_call, repeats, seconds); });
  return seconds;
}

// Memory of the caller's, by its address.
HostSpan host_span(std::uintptr_t address, std::size_t nbytes) {
  return {reinterpret_cast<std::byte*>(address), nbytes};  // NOLINT(performance-no-int-to-ptr)
}

nb::bytes read_back(const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  throw_if_error(self.device.get().read_back(bytes, DeviceSpan{address, nbytes}));
  return nb::bytes(bytes.data(), bytes.size());
}

void bind_device(nb::module_& m) {
  nb::class_<PyDevice>(m, "Device", "A place weights go; made as HostDevice or CudaDevice.")
      .def_prop_ro("name", [](const PyDevice& self) { return self.device.get().name(); })
      .def("measure_link", &measure_link, "nbytes"_a, "repeats"_a = 5,
           "Seconds of each of `repeats` pinned copies of `nbytes` to the device. Blocks.")
      .def(
          "allocate",
          [](const PyDevice& self, std::size_t nbytes) {
            DeviceSpan memory;
            throw_if_error(self.device.get().allocate(nbytes, memory));
            return memory.address;
          },
          "nbytes"_a, "Address of fresh device memory, owned by the caller.")
      .def(
          "deallocate",
          [](const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
            self.device.get().deallocate(DeviceSpan{address, nbytes});
          },
          "address"_a, "nbytes"_a)
      .def("read_back", &read_back, "address"_a, "nbytes"_a, "Copy of device bytes. Blocks.")
      .def("time_copies", &time_copies, "blocks"_a, "blocks_per_call"_a = 0, "repeats"_a = 1,
           "Seconds of each of `repeats` rounds of copying blocks: uint64[6 * n], as csrc/device/device.hpp. Blocks.")
      .def(
          "pin",
          [](const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
            run_released([&] { return self.device.get().pin(host_span(address, nbytes)); });
          },
          "address"_a, "nbytes"_a)
      .def(
          "unpin",
          [](const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
            const GilRelease released;
            self.device.get().unpin(host_span(address, nbytes));
          },
          "address"_a, "nbytes"_a)
      .def_prop_ro("pin_domain", [](const PyDevice& self) { return self.device.get().pin_domain(); })
      .def_prop_ro("numa_node", [](const PyDevice& self) { return self.device.get().numa_node(); });
}

void bind_kinds(nb::module_& m) {
  nb::class_<PyHostDevice, PyDevice>(m, "HostDevice", "CPU threads over host memory, with a paced link and faults.")
      .def(
          "__init__",
          [](PyHostDevice* self, double link_bytes_per_second, std::string fail_step, std::uint64_t fail_at,
             bool fail_from, bool poison, std::uint64_t seed, bool staged) {
            auto device = std::make_shared<HostDevice>(HostDeviceOptions{link_bytes_per_second, std::move(fail_step),
                                                                         fail_at, fail_from, poison, seed, staged});
            ::new (self) PyHostDevice{{Bound<Device>(std::move(device))}};
          },
          nb::kw_only(), "link_bytes_per_second"_a = 0.0, "fail_step"_a = "", "fail_at"_a = 0, "fail_from"_a = false,
          "poison"_a = false, "seed"_a = 0, "staged"_a = false)
      .def_prop_ro("live_objects",
                   [](const PyHostDevice& self) { return static_cast<HostDevice&>(self.device.get()).live_objects(); });
  nb::class_<PyCudaDevice, PyDevice>(m, "CudaDevice", "A CUDA GPU through the driver, in its primary context.")
      .def(
          "__init__",
          [](PyCudaDevice* self, int ordinal, const std::string& library) {
            std::shared_ptr<CudaDevice> device;
            throw_if_error(CudaDevice::make(ordinal, library, device));
            ::new (self) PyCudaDevice{{Bound<Device>(std::move(device))}};
          },
          "ordinal"_a = 0, nb::kw_only(), "library"_a = "libcuda.so.1")
      .def_prop_ro("properties", [](const PyCudaDevice& self) {
        CudaProperties facts;
        throw_if_error(static_cast<CudaDevice&>(self.device.get()).properties(facts));
        return dict_of(facts);
      });
}

}  // namespace

void bind_devices(nb::module_& m) {
  bind_device(m);
  bind_kinds(m);
}

}  // namespace streamload
