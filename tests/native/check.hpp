// The whole test harness of the native tests: TEST, CHECK, CHECK_EQ, REQUIRE and a main.
//
// Each tests/native/test_x.cpp includes this once and is one program. Run it bare for every test, or with words:
// a test runs when its name contains one of them. The last line of output is "N passed, N failed".
// CHECK and CHECK_EQ may be used on any thread; REQUIRE ends the test by an exception, so on the test's own only.
#pragma once

#include <atomic>
#include <cstdio>
#include <exception>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

struct Stop {};  // thrown by REQUIRE; the failure is printed already

inline std::vector<Test> tests;
inline std::atomic<int> failures{0};

struct Row {  // a test in the table
  Row(const char* name, void (*body)()) { tests.push_back({name, body}); }
};

// A value as a failure prints it: streamed where it can be, an enum as its number, else a placeholder.
template <class T>
std::string show(const T& value) {
  std::ostringstream out;
  out << std::boolalpha;
  if constexpr (std::is_enum_v<T>) {
    out << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(value)";
  }
  return out.str();
}

inline bool fail(const char* file, int line, const std::string& text) {
  ++failures;
  std::printf("%s:%d: %s\n", file, line, text.c_str());
  return false;
}

template <class A, class B>
void expect_equal(const A& got, const B& expected, const char* file, int line, const char* expression) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && sizeof(A) > 1 && sizeof(B) > 1) {
    if (std::cmp_equal(got, expected)) return;  // int against unsigned, no warning and no surprise
  } else {
    if (got == expected) return;
  }
  fail(file, line, std::string(expression) + ": got " + show(got) + ", expected " + show(expected));
}

inline int run(int argc, char** argv) {
  int passed = 0;
  int failed = 0;
  for (const Test& test : tests) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::string_view(test.name).find(argv[i]) != std::string::npos;
    if (!wanted) continue;
    const int before = failures;
    try {
      test.body();
    } catch (const Stop&) {
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("threw: ") + error.what());
    }
    const bool good = failures == before;
    (good ? passed : failed) += 1;
    std::printf("%s %s\n", good ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;  // a filter that matches nothing is a mistake, not a success
}

}  // namespace check

#define TEST(name)                                        \
  static void test_##name();                              \
  static const check::Row name##_row(#name, test_##name); \
  static void test_##name()
#define CHECK(expr) static_cast<void>((expr) || check::fail(__FILE__, __LINE__, #expr " is false"))
#define REQUIRE(expr) ((expr) || check::fail(__FILE__, __LINE__, #expr " is false") ? void() : throw check::Stop{})
#define CHECK_EQ(a, b) check::expect_equal((a), (b), __FILE__, __LINE__, #a " == " #b)

int main(int argc, char** argv) { return check::run(argc, argv); }  // NOLINT(misc-definitions-in-headers)
