#include "http/curl_library.hpp"

#include <dlfcn.h>

namespace streamload {
namespace {

// Fills function pointers one by one; after the first symbol that is not there it only remembers that.
class Binder {
 public:
  explicit Binder(void* library) : library_(library) {}

  template <class Function>
  void bind(Function& slot, const char* symbol) {
    slot = reinterpret_cast<Function>(dlsym(library_, symbol));
    if (slot == nullptr && missing_.empty()) missing_ = symbol;
  }
  [[nodiscard]] const std::string& missing() const noexcept { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

void bind_all(Binder& binder, CurlLibrary& curl) {
  binder.bind(curl.version, "curl_version");
  binder.bind(curl.global_init, "curl_global_init");
  binder.bind(curl.easy_init, "curl_easy_init");
  binder.bind(curl.easy_cleanup, "curl_easy_cleanup");
  binder.bind(curl.easy_reset, "curl_easy_reset");
  binder.bind(curl.easy_setopt, "curl_easy_setopt");
  binder.bind(curl.easy_getinfo, "curl_easy_getinfo");
  binder.bind(curl.easy_strerror, "curl_easy_strerror");
  binder.bind(curl.list_append, "curl_slist_append");
  binder.bind(curl.list_free_all, "curl_slist_free_all");
  binder.bind(curl.multi_init, "curl_multi_init");
  binder.bind(curl.multi_cleanup, "curl_multi_cleanup");
  binder.bind(curl.multi_setopt, "curl_multi_setopt");
  binder.bind(curl.multi_add_handle, "curl_multi_add_handle");
  binder.bind(curl.multi_remove_handle, "curl_multi_remove_handle");
  binder.bind(curl.multi_socket_action, "curl_multi_socket_action");
  binder.bind(curl.multi_info_read, "curl_multi_info_read");
}

void bind_urls(void* library, CurlLibrary& curl) {
  Binder binder(library);
  CurlLibrary found;
  binder.bind(found.url_cleanup, "curl_url_cleanup");
  binder.bind(found.url_set, "curl_url_set");
  binder.bind(found.url_get, "curl_url_get");
  binder.bind(found.free, "curl_free");
  binder.bind(found.url, "curl_url");
  if (!binder.missing().empty()) return;
  curl.url_cleanup = found.url_cleanup;
  curl.url_set = found.url_set;
  curl.url_get = found.url_get;
  curl.free = found.free;
  curl.url = found.url;
}

Status no_library(std::string text) {
  return Status::failure(Code::kNoLibrary, "no libcurl (" + std::move(text) + ")");
}

}  // namespace

Status CurlLibrary::load(const std::string& library, std::shared_ptr<const CurlLibrary>& out) {
  if (library.empty()) return Status::failure(Code::kInvalid, "the name of the library is empty");
  // dlopen would take "" for this very program, hence the check. NODELETE says aloud that nobody unloads it.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc and musl keep it per thread
    return no_library(reason == nullptr ? library : reason);
  }
  auto curl = std::make_shared<CurlLibrary>();
  Binder binder(handle);
  bind_all(binder, *curl);
  if (!binder.missing().empty()) return no_library(library + " has no " + binder.missing());
  bind_urls(handle, *curl);
  if (curl->global_init(kCurlGlobalDefault) != CurlCode::kOk) return no_library(library + ": curl_global_init failed");
  out = std::move(curl);
  return {};
}

std::string CurlLibrary::resolve(const std::string& base, const std::string& reference) const {
  if (!has_urls() || reference.empty()) return {};
  const std::unique_ptr<CurlUrl, void (*)(CurlUrl*)> parts(url(), url_cleanup);
  if (!parts) return {};
  char* whole = nullptr;
  if (url_set(parts.get(), kCurlUrlPartUrl, base.c_str(), kCurlUrlAsIs) != 0 ||
      url_set(parts.get(), kCurlUrlPartUrl, reference.c_str(), kCurlUrlAsIs) != 0 ||
      url_get(parts.get(), kCurlUrlPartUrl, &whole, 0) != 0) {
    return {};
  }
  const std::unique_ptr<char, void (*)(void*)> kept(whole, free);
  return whole;
}

}  // namespace streamload
