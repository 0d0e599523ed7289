// Tensors of BYTES: what is accepted can be taken apart and put together again.
#include <algorithm>

#include "byte_elements.h"
#include "targets.h"

namespace starling::fuzz {

void fuzz_elements(std::size_t step, Bytes tensor) {
  if (tensor.empty()) return;
  const std::uint64_t count = tensor[0] == 0xFF ? ~std::uint64_t{0} : tensor[0];
  tensor = tensor.subspan(1);
  const Cut cut(tensor, step);
  const auto wrong = check_elements(cut.spans, count);
  require(wrong == check_elements({tensor}, count), "cutting a tensor changed the verdict");
  require(wrong.empty() == (elements_size(tensor, count) == tensor.size()), "two verdicts on one tensor");
  if (!wrong.empty()) return;
  std::vector<std::uint8_t> again(tensor.size());
  auto* out = again.data();
  auto rest = tensor;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto element = take_element(rest);
    out = std::copy(element.begin(), element.end(), put_length(out, element.size()));
  }
  require(rest.empty() && std::ranges::equal(again, tensor), "a tensor came back as another");
}

}  // namespace starling::fuzz
