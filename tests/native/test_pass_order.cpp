// Where a consumer is in its passes, and what comes next.
#include "check.hpp"
#include "engine/pass_order.hpp"

using namespace streamload;

namespace {

std::vector<std::uint32_t> coming(const PassOrder& order) {
  std::vector<std::uint32_t> units;
  for (std::size_t i = 1; i <= order.size(); ++i) units.push_back(order.ahead(i));
  return units;
}

using Units = std::vector<std::uint32_t>;

}  // namespace

TEST(a_pass_begins_with_its_first_unit_and_wraps_into_the_next) {
  PassOrder order({5, 6, 7});
  CHECK(coming(order) == Units({5, 6, 7}));
  order.use(5);
  CHECK(coming(order) == Units({6, 7, 5}));
  order.use(6);
  order.use(7);
  CHECK(coming(order) == Units({5, 6, 7}));
}

TEST(what_lies_before_the_unit_used_is_skipped) {
  PassOrder order({0, 1, 2, 3});
  order.use(2);
  CHECK(coming(order) == Units({3, 0, 1, 2}));
  order.use(1);  // of the next pass
  CHECK(coming(order) == Units({2, 3, 0, 1}));
  order.use(9);  // stands nowhere
  CHECK(coming(order) == Units({2, 3, 0, 1}));
}

TEST(a_unit_that_stands_twice_is_met_where_it_stands_next) {
  PassOrder order({0, 1, 0, 2});
  order.use(0);
  CHECK(coming(order) == Units({1, 0, 2, 0}));
  order.use(0);
  CHECK(coming(order) == Units({2, 0, 1, 0}));
  CHECK_EQ(order.places_to(1), 3U);
  CHECK_EQ(order.places_to(9), 5U);
}

TEST(a_pass_that_begins_skips_the_rest_of_the_last_and_the_first_one_nothing) {
  PassOrder order({0, 1, 2});
  order.begin_pass();
  CHECK(coming(order) == Units({0, 1, 2}));
  order.use(1);
  order.begin_pass();
  order.begin_pass();
  CHECK(coming(order) == Units({0, 1, 2}));
}

TEST(another_order_goes_on_behind_the_unit_used_last) {
  PassOrder order({0, 1, 2, 3});
  order.use(1);
  order.replace({0, 1, 3, 2});
  CHECK(coming(order) == Units({3, 2, 0, 1}));
  order.replace({7, 0, 1, 2});  // it stands elsewhere
  CHECK(coming(order) == Units({2, 7, 0, 1}));
  order.replace({4, 5});  // nowhere, and further than the pass is long
  CHECK(coming(order) == Units({4, 5}));
  order.use(4);
  order.replace({});
  CHECK_EQ(order.size(), 0U);
  order.use(4);
  order.begin_pass();
  order.replace({8, 9});
  CHECK(coming(order) == Units({8, 9}));
}

TEST(between_two_passes_another_order_begins_at_its_beginning) {
  PassOrder order({0, 1, 2});
  for (const std::uint32_t unit : {0, 1, 2}) order.use(unit);
  order.replace({2, 1, 0});
  CHECK(coming(order) == Units({2, 1, 0}));
}
