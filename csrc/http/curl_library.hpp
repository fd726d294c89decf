// libcurl, loaded at run time: the part of its C interface that this core uses, declared here.
//
// No header of libcurl is needed to build and none of its symbols to link; a machine without the library gets
// kNoLibrary, and everything else works. Names, numbers and layouts are those of curl/curl.h and curl/multi.h, which
// libcurl has kept since soname 4 (2006); each option says since when it is known.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/status.hpp"

namespace streamload {

struct CurlEasy;   // CURL: one transfer
struct CurlMulti;  // CURLM: many of them on one thread
struct CurlUrl;    // CURLU: a URL in its parts

struct CurlList {  // struct curl_slist
  char* line = nullptr;
  CurlList* next = nullptr;
};

using CurlSocket = int;

// CURLcode, as far as it is told apart here.
enum class CurlCode : int {
  kOk = 0,
  kUnsupportedProtocol = 1,
  kUrlMalformat = 3,
  kCouldntResolveProxy = 5,
  kCouldntResolveHost = 6,
  kCouldntConnect = 7,
  kPartialFile = 18,
  kWriteError = 23,
  kOutOfMemory = 27,
  kOperationTimedOut = 28,
  kGotNothing = 52,
  kSendError = 55,
  kRecvError = 56,
  kSslCertProblem = 58,
  kPeerFailedVerification = 60,
  kSslCaCertBadFile = 77,
  kSslIssuerError = 83,
  kSslPinnedKeyMismatch = 90,
  kSslInvalidCertStatus = 91,
};

// CURLoption.
enum class CurlOption : int {
  kBufferSize = 98,
  kNoSignal = 99,
  kConnectTimeoutMs = 156,
  kSslVerifyPeer = 64,
  kSslVerifyHost = 81,
  kFreshConnect = 74,
  kHttpVersion = 84,
  kDnsCacheTimeout = 92,
  kConnectOnly = 141,
  kProtocols = 181,
  kTcpKeepAlive = 213,            // 7.25.0
  kPathAsIs = 234,                // 7.42.0
  kSuppressConnectHeaders = 265,  // 7.54.0
  kDnsShuffleAddresses = 275,     // 7.60.0
  kHttp09Allowed = 285,           // 7.64.0
  kQuickExit = 322,               // 7.87.0
  kWriteData = 10001,
  kUrl = 10002,
  kProxy = 10004,
  kErrorBuffer = 10010,
  kHttpHeader = 10023,
  kHeaderData = 10029,
  kCaInfo = 10065,
  kPrivate = 10103,
  kWriteFunction = 20011,
  kHeaderFunction = 20079,
};

// CURLINFO.
enum class CurlInfo : int {
  kPrivate = 0x100000 + 21,
  kRedirectUrl = 0x100000 + 31,
  kOsErrno = 0x200000 + 25,
  kActiveSocket = 0x500000 + 44,  // 7.45.0
};

// CURLMoption.
enum class CurlMultiOption : int {
  kPipelining = 3,
  kMaxConnects = 6,
  kSocketData = 10002,
  kTimerData = 10005,
  kSocketFunction = 20001,
  kTimerFunction = 20004,
};

struct CurlMessage {  // struct CURLMsg
  int kind = 0;       // kCurlMessageDone
  CurlEasy* easy = nullptr;
  union {
    void* whatever;
    CurlCode result;
  } data{};
};

inline constexpr int kCurlMessageDone = 1;          // CURLMSG_DONE
inline constexpr long kCurlGlobalDefault = 3;       // CURL_GLOBAL_DEFAULT
inline constexpr long kCurlHttp11 = 2;              // CURL_HTTP_VERSION_1_1
inline constexpr long kCurlProtocolsHttp = 3;       // CURLPROTO_HTTP | CURLPROTO_HTTPS
inline constexpr std::size_t kCurlErrorSize = 256;  // CURL_ERROR_SIZE
inline constexpr CurlSocket kCurlSocketTimeout = -1;
inline constexpr int kCurlPollRemove = 4;  // CURL_POLL_REMOVE; below it, bit 0 asks for reading and bit 1 for writing
inline constexpr int kCurlSelectIn = 1;
inline constexpr int kCurlSelectOut = 2;
inline constexpr int kCurlSelectError = 4;
inline constexpr int kCurlUrlPartUrl = 0;           // CURLUPART_URL
inline constexpr unsigned kCurlUrlAsIs = 1U << 4U;  // CURLU_PATH_AS_IS

// All functions may be used from several threads at once, each handle from one at a time.
struct CurlLibrary {
  // Loads the library (a name for the dynamic loader, or a path), finds every entry point and calls curl_global_init,
  // which before libcurl 7.84 must not be called twice at once: the caller sees to that. Every failure is kNoLibrary.
  // Never unloaded: it may have threads that look up names, and others of the process use it.
  [[nodiscard]] static Status load(const std::string& library, std::shared_ptr<const CurlLibrary>& out);

  char* (*version)() = nullptr;
  CurlCode (*global_init)(long flags) = nullptr;
  CurlEasy* (*easy_init)() = nullptr;
  void (*easy_cleanup)(CurlEasy* easy) = nullptr;
  void (*easy_reset)(CurlEasy* easy) = nullptr;  // its options; connections stay
  CurlCode (*easy_setopt)(CurlEasy* easy, CurlOption option, ...) = nullptr;
  CurlCode (*easy_getinfo)(CurlEasy* easy, CurlInfo info, ...) = nullptr;
  const char* (*easy_strerror)(CurlCode code) = nullptr;
  CurlList* (*list_append)(CurlList* list, const char* line) = nullptr;
  void (*list_free_all)(CurlList* list) = nullptr;
  CurlMulti* (*multi_init)() = nullptr;
  int (*multi_cleanup)(CurlMulti* multi) = nullptr;
  int (*multi_setopt)(CurlMulti* multi, CurlMultiOption option, ...) = nullptr;
  int (*multi_add_handle)(CurlMulti* multi, CurlEasy* easy) = nullptr;
  int (*multi_remove_handle)(CurlMulti* multi, CurlEasy* easy) = nullptr;
  int (*multi_socket_action)(CurlMulti* multi, CurlSocket socket, int events, int* running) = nullptr;
  CurlMessage* (*multi_info_read)(CurlMulti* multi, int* left) = nullptr;

  // 7.62.0; an older library has none of them.
  CurlUrl* (*url)() = nullptr;
  void (*url_cleanup)(CurlUrl* url) = nullptr;
  int (*url_set)(CurlUrl* url, int part, const char* content, unsigned flags) = nullptr;
  int (*url_get)(CurlUrl* url, int part, char** content, unsigned flags) = nullptr;
  void (*free)(void* memory) = nullptr;
  [[nodiscard]] bool has_urls() const noexcept { return url != nullptr; }
  // `reference` as it is meant at `base`, absolute; empty where it is none, or where the library has no URLs.
  [[nodiscard]] std::string resolve(const std::string& base, const std::string& reference) const;
};

}  // namespace streamload
