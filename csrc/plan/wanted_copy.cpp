#include "plan/wanted_copy.hpp"

#include "plan/checked.hpp"

namespace streamload {

CopyFault find_fault(const WantedCopy& copy) noexcept {
  if (copy.start > copy.end || copy.row_bytes() > kU64Max - copy.address) return CopyFault::kRange;
  if (copy.rows == 1) return CopyFault::kNone;
  if (copy.rows == 0 || copy.file_pitch < copy.row_bytes() || copy.pitch < copy.row_bytes()) return CopyFault::kRows;
  const bool ends = last_row_fits(copy.end, copy.rows, copy.file_pitch) &&
                    last_row_fits(copy.address + copy.row_bytes(), copy.rows, copy.pitch);
  return ends ? CopyFault::kNone : CopyFault::kLastRow;
}

std::string describe(CopyFault fault, const WantedCopy& copy) {
  switch (fault) {
    case CopyFault::kNone: break;
    case CopyFault::kRange: return "expected start <= end, and all numbers and address + length within 64 bits";
    case CopyFault::kRows:
      return "expected at least one row, and pitches of at least a row's " + std::to_string(copy.row_bytes()) +
             " bytes";
    case CopyFault::kLastRow: return "expected the last row to end within 64 bits";
  }
  return {};
}

}  // namespace streamload
