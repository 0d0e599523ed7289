#include <gtest/gtest.h>

#include "plan.h"

namespace starling::testbed {
namespace {

std::string why_not(const std::vector<std::string>& statements) {
  try {
    parse_plan("t", 1, statements);
    return "";
  } catch (const BadPlan& bad) {
    return bad.what();
  }
}

TEST(TestbedPlan, ReadsHostsLinksAndRoutes) {
  const Plan plan =
      parse_plan("t", 7,
                 {"host a 10.77.0.1", "host b-2 10.77.0.2",
                  "link a-b a b-2 delay_ms=20 jitter_ms=2.5 loss=0.01 rate_mbit=100 reorder=0.1", "route a b-2 b-2"});
  EXPECT_EQ(plan.seed, 7U);
  EXPECT_EQ(plan.hosts[1].name, "b-2");
  EXPECT_EQ(plan.links[0].shape.delay, 20'000'000);
  EXPECT_EQ(plan.links[0].shape.jitter, 2'500'000);
  EXPECT_EQ(plan.links[0].shape.rate, 1e8);
  EXPECT_EQ(plan.links[0].shape.buffer, 200'000'000);
  EXPECT_EQ(plan.routes[0].via, "b-2");
  EXPECT_EQ(describe(plan.links[0].shape),
            R"("delay_ms": 20, "jitter_ms": 2.5, "loss": 0.01, "rate_mbit": 100, "reorder": 0.1, "buffer_ms": 200)");
}

TEST(TestbedPlan, RefusesWhatCannotBe) {
  EXPECT_EQ(why_not({"host A 10.77.0.1"}), "found the name \"A\"; expected a-z, 0-9 and -");
  EXPECT_EQ(why_not({"host abcdefghijklmnop 10.77.0.1"}),
            "host \"abcdefghijklmnop\" cannot name an interface; expected at most 15 characters");
  EXPECT_EQ(why_not({"host a 10.77.0.1", "link a-b a b"}), "there is no host \"b\"");
  EXPECT_EQ(why_not({"switch a"}), "found \"switch a\"; expected host, link or route");
  EXPECT_THROW(parse_plan("../x", 1, {}), BadPlan);
}

TEST(TestbedPlan, RefusesValuesOutOfRange) {
  Shape shape;
  for (const char* bad : {"loss=1.5", "loss=-0.1", "loss=nan", "loss=", "loss", "delay_ms=60001", "delay_ms=1x",
                          "rate_mbit=-1", "mtu=1500", "=", ""})
    EXPECT_THROW(apply(shape, bad), BadPlan) << bad;
  EXPECT_NO_THROW(apply(shape, "loss=1"));
  EXPECT_EQ(shape.loss, 1);
}

}  // namespace
}  // namespace starling::testbed
