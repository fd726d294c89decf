#include "engine/join_reads.hpp"

#include <algorithm>
#include <utility>

#include "io/source.hpp"

namespace streamload {
namespace {

// Beyond it a read costs no less for its bytes, and the first ones come later.
constexpr std::size_t kMostInPlace = 16 << 20;
// So many for each thread, so that none waits long for the last.
constexpr std::size_t kReadsPerThread = 8;

// The only copy of a read, if that fills one range of memory; else nothing.
const CopyStep* place_of(const Plan& plan, const ReadStep& read) noexcept {
  if (read.last_copy - read.first_copy != 1) return nullptr;
  const CopyStep& copy = plan.copies[read.first_copy];
  return copy.offset == 0 && copy.rows == 1 && copy.row_bytes == read.nbytes ? &copy : nullptr;
}

}  // namespace

void join_reads(Plan& plan, std::size_t most, const std::function<bool(std::uint32_t)>& may_join) {
  if (!plan.sums.empty()) return;
  std::vector<ReadStep> reads;
  std::vector<CopyStep> copies;
  reads.reserve(plan.reads.size());
  copies.reserve(plan.copies.size());
  const CopyStep* last_place = nullptr;  // of the read before, where it may grow
  for (const ReadStep& read : plan.reads) {
    const CopyStep* place = place_of(plan, read);
    if (place != nullptr && ((place->address - read.offset) % kDirectAlignment != 0 || !may_join(read.source))) {
      place = nullptr;
    }
    ReadStep* last = reads.empty() ? nullptr : &reads.back();
    if (place != nullptr && last_place != nullptr && last->source == read.source && last->group == read.group &&
        last->offset + last->nbytes == read.offset && copies.back().address + last->nbytes == place->address &&
        last->nbytes + read.nbytes <= most) {
      last->nbytes += read.nbytes;
      last->joined = true;
      copies.back().row_bytes = last->nbytes;
    } else {
      const std::size_t first = copies.size();
      const std::span<const CopyStep> own(plan.copies);
      const auto kept = own.subspan(read.first_copy, read.last_copy - read.first_copy);
      copies.insert(copies.end(), kept.begin(), kept.end());
      reads.push_back(read);
      reads.back().first_copy = first;
      reads.back().last_copy = copies.size();
    }
    last_place = place;
  }
  plan.reads = std::move(reads);
  plan.copies = std::move(copies);
}

std::size_t longest_in_place(std::uint64_t nbytes, std::size_t threads) noexcept {
  return std::min<std::uint64_t>(kMostInPlace, nbytes / (kReadsPerThread * std::max<std::size_t>(threads, 1)));
}

}  // namespace streamload
