// A ticket's checksums: taken piece by piece while bytes pass, compared before a group is issued.
#include <algorithm>

#include "core/crc32c.hpp"
#include "engine/ticket.hpp"

namespace streamload {

void Ticket::take_sums(const ReadStep& step, std::span<const ConstHostSpan> parts) noexcept {
  for (std::size_t i = step.first_sum; i < step.last_sum; ++i) {
    const std::size_t index = plan_.sums_by_read[i];
    std::size_t skip = plan_.sums[index].offset;
    std::size_t wanted = plan_.sums[index].nbytes;
    std::uint32_t sum = 0;
    for (const ConstHostSpan part : parts) {
      if (wanted == 0) break;
      if (skip >= part.size()) {
        skip -= part.size();
        continue;
      }
      const ConstHostSpan piece = part.subspan(skip, std::min(wanted, part.size() - skip));
      sum = crc32c(sum, piece);
      wanted -= piece.size();
      skip = 0;
    }
    sums_[index] = sum;
  }
}

std::uint32_t Ticket::sum_of(const SumKey& key) const noexcept {
  std::uint32_t whole = 0;  // of no bytes
  for (std::size_t i = key.first_sum; i < key.last_sum; ++i) {
    whole = crc32c_combine(whole, sums_[i], plan_.sums[i].nbytes);
  }
  return whole;
}

Status Ticket::check_sums(const Group& group) const {
  for (std::size_t i = group.first_key; i < group.last_key; ++i) {
    const std::size_t number = keys_by_group_[i];
    const SumKey& key = plan_.keys[number];
    if (!key.expected || key.first_sum == key.last_sum) continue;
    const std::uint32_t found = sum_of(key);
    if (found == *key.expected) continue;
    const SumStep& first = plan_.sums[key.first_sum];
    const ReadStep& read = plan_.reads[first.read];
    Status status = Status::failure(Code::kChecksum, "the bytes are not those that were summed");
    status.key = number;
    status.expected = *key.expected;
    status.actual = found;
    status.source = sources_[read.source]->url();
    status.offset = read.offset + first.offset;
    for (std::size_t k = key.first_sum; k < key.last_sum; ++k) status.nbytes += plan_.sums[k].nbytes;
    return status;
  }
  return {};
}

std::vector<std::optional<std::uint32_t>> Ticket::sums() const {
  std::vector<std::optional<std::uint32_t>> found;
  found.reserve(plan_.keys.size());
  for (const SumKey& key : plan_.keys) {
    const bool known = key.first_sum < key.last_sum && groups_[key.group].resident;
    found.push_back(known ? std::optional(sum_of(key)) : std::nullopt);
  }
  return found;
}

}  // namespace streamload
