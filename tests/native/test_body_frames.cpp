// Where bodies begin, pause and end, however the bytes around them are cut up.
#include "check.hpp"
#include "http/body_frames.hpp"

using namespace streamload;

namespace {

struct Read {
  std::string body;
  std::string rest;  // behind the body's end
  bool ended = false;
  bool broken = false;
};

// As a connection does: `step` bytes come at once.
Read read(BodyFrames frames, std::string_view bytes, std::size_t step) {
  Read out;
  while (!bytes.empty() && !frames.ended() && !frames.broken()) {
    std::string_view came = bytes.substr(0, step);
    bytes.remove_prefix(came.size());
    while (!came.empty() && !frames.ended() && !frames.broken()) {
      const auto body = static_cast<std::size_t>(std::min<std::uint64_t>(frames.ahead(), came.size()));
      out.body += came.substr(0, body);
      if (body > 0) frames.pass(body);
      const std::size_t framing = body > 0 ? body : frames.take(came);
      came.remove_prefix(framing);
    }
    out.rest = std::string(came) + std::string(bytes);
  }
  out.ended = frames.ended();
  out.broken = frames.broken();
  return out;
}

ResponseHead chunked() {
  ResponseHead head;
  head.status = 206;
  head.chunked = true;
  return head;
}

ResponseHead with_length(std::uint64_t length) {
  ResponseHead head;
  head.status = 206;
  head.content_length = length;
  return head;
}

}  // namespace

TEST(a_length_ends_the_body) {
  for (std::size_t step = 1; step < 9; ++step) {
    const Read out = read(BodyFrames(with_length(5)), "helloHTTP", step);
    CHECK_EQ(out.body, "hello");
    CHECK_EQ(out.rest, "HTTP");
    CHECK(out.ended);
  }
  CHECK(BodyFrames(with_length(0)).ended());
  CHECK(!read(BodyFrames(with_length(5)), "hell", 2).ended);
}

TEST(without_a_length_the_connection_ends_it) {
  ResponseHead head;
  head.status = 200;
  const BodyFrames frames(head);
  CHECK(frames.ends_with_connection());
  const Read out = read(frames, "all of it", 4);
  CHECK_EQ(out.body, "all of it");
  CHECK(!out.ended);
  head.status = 204;
  CHECK(BodyFrames(head).ended());
}

TEST(chunks_are_put_together_however_they_come) {
  const std::string_view text =
      "5\r\nhello\r\n00A;name=\"a b\"\r\n, wide wor\r\n2 \r\nld\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\nHTTP";
  for (std::size_t step = 1; step <= text.size(); ++step) {
    const Read out = read(BodyFrames(chunked()), text, step);
    CHECK_EQ(out.body, "hello, wide world");
    CHECK_EQ(out.rest, "HTTP");
    CHECK(out.ended);
  }
  // Chunks count, whatever a length says.
  ResponseHead both = chunked();
  both.content_length = 3;
  CHECK_EQ(read(BodyFrames(both), "5\r\nhello\r\n0\r\n\r\n", 4).body, "hello");
}

TEST(lines_may_end_with_a_line_feed_alone) {
  const Read out = read(BodyFrames(chunked()), "5\nhello\n0\n\n", 3);
  CHECK_EQ(out.body, "hello");
  CHECK(out.ended);
}

TEST(malformed_chunks_are_refused) {
  for (const char* text :
       {"\r\nhello", "x\r\n", "-1\r\n", "5 \r\nhelloX", "5g\r\nhello", "0123456789abcdef\r\n", ";\r\n"}) {
    CHECK(read(BodyFrames(chunked()), text, 1).broken);
    CHECK(read(BodyFrames(chunked()), text, 100).broken);
  }
  CHECK(!read(BodyFrames(chunked()), "5\r\nhello\r\n0\r\n", 100).ended);
}
