// Plans of loads, from the copies that Python wants to the flat arrays that it holds.
#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/python.hpp"
#include "plan/overlap.hpp"
#include "plan/plain_runs.hpp"
#include "plan/planner.hpp"
#include "plan/row_runs.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

// Rows from which planning may take longer than the 5 ms after which Python's threads are to take turns.
constexpr std::uint64_t kWorthReleasing = 1U << 15U;

constexpr std::size_t kCopyFields = 7;

enum class Fit : std::uint8_t { kFits, kNegative, kBeyond };

// A number of 64 bits; one beyond them as the largest, a negative one as 0.
Fit read_number(PyObject* number, std::uint64_t& value) {
  if (!PyLong_Check(number)) {
    PyErr_Format(PyExc_TypeError, "expected an int, got %R", number);
    throw nb::python_error();
  }
  // Signed first: that is faster, and nearly always enough.
  int overflow = 0;
  const long long small = PyLong_AsLongLongAndOverflow(number, &overflow);
  value = small < 0 ? 0 : static_cast<std::uint64_t>(small);
  if (overflow <= 0) return small < 0 ? Fit::kNegative : Fit::kFits;
  value = PyLong_AsUnsignedLongLong(number);
  if (value != kU64Max || PyErr_Occurred() == nullptr) return Fit::kFits;
  PyErr_Clear();  // OverflowError, and the value is the largest
  return Fit::kBeyond;
}

// The numbers of a tuple. Nothing here runs code of Python's while all is well, so that nobody can take it away.
template <std::size_t kCount>
std::array<PyObject*, kCount> items_of(PyObject* tuple, const char* what) {
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != kCount) {
    PyErr_Format(PyExc_TypeError, "expected %s, got %R", what, tuple);
    throw nb::python_error();
  }
  std::array<PyObject*, kCount> items;
  for (std::size_t i = 0; i < kCount; ++i) items[i] = PyTuple_GET_ITEM(tuple, static_cast<Py_ssize_t>(i));
  return items;
}

[[noreturn]] void raise_about(PyObject* wrong, const std::string& text) {
  const nb::object held = nb::borrow(wrong);
  PyErr_Format(PyExc_ValueError, "%S: %s", held.ptr(), text.c_str());
  throw nb::python_error();
}

CopyFault read_copy(PyObject* tuple, WantedCopy& copy) {
  const auto items = items_of<kCopyFields>(tuple, "a Copy");
  bool fits = true;
  const std::array range{&copy.shard, &copy.start, &copy.end, &copy.address};
  for (std::size_t i = 0; i < range.size(); ++i) fits = read_number(items[i], *range[i]) == Fit::kFits && fits;
  if (!fits) return CopyFault::kRange;
  Fit worst = read_number(items[4], copy.rows);
  if (copy.rows == 1) return find_fault(copy);  // pitches have no meaning then
  for (const auto& [item, number] : {std::pair(items[5], &copy.file_pitch), std::pair(items[6], &copy.pitch)}) {
    const Fit fit = read_number(item, *number);
    if (fit != Fit::kFits && worst != Fit::kNegative) worst = fit;
  }
  const CopyFault fault = find_fault(copy);
  if (fault == CopyFault::kRange || worst == Fit::kFits) return fault;
  return worst == Fit::kNegative || fault == CopyFault::kRows ? CopyFault::kRows : CopyFault::kLastRow;
}

class Sequence {
 public:
  Sequence(nb::handle object, const char* otherwise) : held_(nb::steal(PySequence_Fast(object.ptr(), otherwise))) {
    if (!held_.is_valid()) throw nb::python_error();
  }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(PySequence_Fast_GET_SIZE(held_.ptr())); }
  [[nodiscard]] PyObject* operator[](std::size_t at) const {
    return PySequence_Fast_GET_ITEM(held_.ptr(), static_cast<Py_ssize_t>(at));
  }

 private:
  nb::object held_;
};

// Records of unsigned 64-bit numbers, where an object is a buffer.
class Numbers {
 public:
  explicit Numbers(nb::handle object) {
    if (PyObject_CheckBuffer(object.ptr()) == 0) return;
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_ND | PyBUF_FORMAT) != 0) throw nb::python_error();
    held_ = true;
  }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  ~Numbers() {
    if (held_) PyBuffer_Release(&view_);
  }
  [[nodiscard]] bool are_there() const { return held_; }
  [[nodiscard]] std::span<const std::uint64_t> all(std::size_t to_a_record) const {
    const std::string_view format = view_.format == nullptr ? "B" : view_.format;
    const bool aligned = view_.len == 0 || reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(std::uint64_t) == 0;
    if (format != "Q" || !aligned) {
      throw nb::type_error("expected an array of unsigned 64-bit numbers");
    }
    const auto count = static_cast<std::size_t>(view_.len) / sizeof(std::uint64_t);
    if (count % to_a_record != 0) throw nb::value_error("expected whole records of numbers");
    return {static_cast<const std::uint64_t*>(view_.buf), count};
  }

 private:
  Py_buffer view_{};
  bool held_ = false;
};

nb::bytes bytes_of(const std::vector<std::uint64_t>& numbers) {
  return nb::bytes(numbers.data(), numbers.size() * sizeof(std::uint64_t));
}

template <class T>
void make_room(std::vector<T>& records, std::size_t more) {
  const std::size_t count = records.size() + more;
  if (count > records.capacity()) records.reserve(std::max(count, 2 * records.capacity()));
}

// Adds copies given as seven numbers each, and returns their rows.
std::uint64_t add_flat_copies(std::span<const std::uint64_t> numbers, std::vector<WantedCopy>& copies) {
  std::uint64_t rows = 0;
  make_room(copies, numbers.size() / kCopyFields);
  for (; !numbers.empty(); numbers = numbers.subspan(kCopyFields)) {
    const WantedCopy& copy = copies.emplace_back(
        WantedCopy{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]});
    const CopyFault fault = find_fault(copy);
    if (fault != CopyFault::kNone) {
      raise_about(
          nb::make_tuple(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]).ptr(),
          describe(fault, copy));
    }
    rows = saturating_add(rows, copy.rows);
  }
  return rows;
}

std::uint64_t add_copies(nb::handle group, std::vector<WantedCopy>& copies) {
  const Numbers flat(group);
  if (flat.are_there()) return add_flat_copies(flat.all(kCopyFields), copies);
  std::uint64_t rows = 0;
  const Sequence given(group, "expected a group of copies");
  make_room(copies, given.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    WantedCopy& copy = copies.emplace_back();
    const CopyFault fault = read_copy(given[i], copy);
    if (fault != CopyFault::kNone) raise_about(given[i], describe(fault, copy));
    rows = saturating_add(rows, copy.rows);
  }
  return rows;
}

nb::tuple plan_copies(nb::handle groups, std::uint64_t chunk_bytes, std::uint64_t apart_bytes) {
  std::vector<WantedCopy> copies;
  std::vector<std::size_t> group_ends;
  std::uint64_t rows = 0;
  const Sequence outer(groups, "expected groups of copies");
  for (std::size_t group = 0; group < outer.size(); ++group) {
    rows = saturating_add(rows, add_copies(nb::borrow(outer[group]), copies));
    group_ends.push_back(copies.size());
  }
  PlannedLoad planned;
  Status status;
  {
    std::optional<GilRelease> released;
    if (rows >= kWorthReleasing) released.emplace();
    status = plan_load({copies, group_ends, chunk_bytes, apart_bytes}, planned);
  }
  if (!status.ok()) throw nb::value_error(status.text.c_str());
  return nb::make_tuple(planned.nbytes, bytes_of(planned.flat.reads), bytes_of(planned.flat.copies));
}

nb::object overlap_of(nb::handle sequence, nb::handle whole_copies) {
  std::vector<Block> blocks;
  std::uint64_t rows = 0;
  const Sequence given(sequence, "expected blocks");
  const Numbers flat(whole_copies);
  if (!flat.are_there() && !whole_copies.is_none()) throw nb::type_error("expected an array of copies, or None");
  const auto numbers = flat.are_there() ? flat.all(kCopyFields) : std::span<const std::uint64_t>{};
  blocks.reserve(given.size() + numbers.size() / kCopyFields);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const auto items = items_of<4>(given[i], "a block of four numbers");
    Block& block = blocks.emplace_back();
    bool fits = read_number(items[0], block.address) == Fit::kFits;
    fits = read_number(items[1], block.nbytes) == Fit::kFits && fits;
    fits = read_number(items[2], block.rows) == Fit::kFits && fits;
    if (block.rows != 1) fits = read_number(items[3], block.pitch) == Fit::kFits && fits;
    if (!fits || !is_sound(block)) {
      raise_about(given[i], "expected rows that do not overlap, and the last to end within 64 bits");
    }
    rows = saturating_add(rows, block.rows);
  }
  for (auto left = numbers; !left.empty(); left = left.subspan(kCopyFields)) {
    blocks.push_back({left[3], left[2] - left[1], 1, 0});
    if (left[2] < left[1] || left[4] != 1 || !is_sound(blocks.back())) {
      throw nb::value_error("expected copies of one row that end within 64 bits");
    }
  }
  rows = saturating_add(rows, numbers.size() / kCopyFields);
  std::optional<Meeting> met;
  {
    std::optional<GilRelease> released;
    if (rows >= kWorthReleasing) released.emplace();
    met = find_overlap(blocks);
  }
  if (!met) return nb::none();
  return nb::make_tuple(met->address, met->first, met->second);
}

}  // namespace

void bind_plan(nb::module_& m) {
  m.attr("MAX_COPIES") = kMaxCopies;
  m.attr("READ_ALIGNMENT") = kReadAlignment;
  m.attr("READ_THROUGH") = kReadThrough;
  m.def("plan_copies", &plan_copies, "groups"_a, "chunk_bytes"_a, "apart_bytes"_a,
        "Bytes that are copied, and the reads and copies of a plan as unsigned 64-bit numbers.");
  m.def("find_overlap", &overlap_of, "blocks"_a, "whole_copies"_a = nb::none(),
        "An address that two blocks hold, and their positions; or None. The destinations of copies of one row, as "
        "seven numbers each, are numbered after the blocks.");
}

}  // namespace streamload
