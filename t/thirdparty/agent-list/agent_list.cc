// agent_list.cc - a module in C++: which programs may call, by the product
// that their User-Agent names first.
#include <kars_module.h>

#include <algorithm>
#include <cctype>
#include <new>
#include <string>
#include <string_view>
#include <unordered_set>

namespace
{

// Built once for each route, in memory of the configuration's pool; its
// destructor runs when the configuration goes.
using names_t = std::unordered_set<std::string>;

struct list_conf_t {
    kars_list_t words;
    names_t *names; // of check
};

std::string
lower(std::string_view s)
{
    std::string out(s);

    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    return out;
}

// "OpenAI/Python 1.2" -> "openai"
std::string
product(kars_str_t agent)
{
    std::string_view s(agent.data != nullptr ? agent.data : "", agent.len);

    return lower(s.substr(0, s.find_first_of("/ (")));
}

void
names_release(void *data)
{
    static_cast<names_t *>(data)->~names_t();
}

// Nothing may be thrown into the router: a function that it calls is noexcept,
// or catches.
int
list_check(const kars_place_t *place, void *conf, kars_err_t *err) noexcept
{
    auto *lc = static_cast<list_conf_t *>(conf);

    if (lc->words.n == 0) {
        return KARS_OK;
    }
    try {
        names_t names;

        for (size_t i = 0; i < lc->words.n; i++) {
            names.insert(lower({ lc->words.v[i].data, lc->words.v[i].len }));
        }

        void *p = kars_pown(place->pool, sizeof(names_t), names_release);

        if (p == nullptr) {
            return kars_err(err, 0, "agent_list: no memory");
        }
        lc->names = new (p) names_t(std::move(names));
        return KARS_OK;
    } catch (const std::bad_alloc &) {
        return kars_err(err, 0, "agent_list: no memory");
    }
}

int
list_rewrite(kars_req_t *r, const void *conf, void *) noexcept
{
    const auto *lc = static_cast<const list_conf_t *>(conf);

    try {
        kars_str_t agent = kars_header(r, KARS_REQUEST, KARS_STR("user-agent"));

        if (lc->names == nullptr || lc->names->count(product(agent)) != 0) {
            return KARS_OK;
        }
    } catch (const std::bad_alloc &) {
        return KARS_ERROR;
    }

    kars_denial_t no{};

    no.size = sizeof(no);
    no.status = 403;
    no.code = KARS_STR("agent_not_listed");
    no.reason = KARS_STR("this program is not on the list of agents");
    no.rule = &lc->words;
    return kars_deny(r, &no);
}

// clang-format off
const kars_directive_t list_directives[] = {
    { .name = "agent_list", .at = KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_LIST, .offset = offsetof(list_conf_t, words),
      .doc = "products of User-Agent that may call, in any case" },
    {},
};
const kars_hook_t list_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = list_rewrite },
    {},
};
// clang-format on

} // namespace

KARS_MODULE(agent_list) = {
    KARS_MODULE_HEAD,
    .name = "agent-list",
    .version = "1.0.0",
    .conf_size = sizeof(list_conf_t),
    .directives = list_directives,
    .hooks = list_hooks,
    .check = list_check,
};
