/* Impersonation: a user acts as another one, when allowed to impersonate each thing it claims: the user (or service
 * account), every group, the uid, every extra value. Upstream: apiserver/pkg/endpoints/filters/impersonation. */
#include "apiserver/auth/authz.h"

#define SA_PREFIX "system:serviceaccount:"

struct claim {
    const char *group, *resource, *subresource, *ns, *name;
};

static int claim_check(struct authz *z, struct arena *a, const struct user_info *user, const struct claim *c,
                       struct err *e) {
    struct authz_attrs q = {.user = user,
                            .verb = "impersonate",
                            .resource_request = true,
                            .group = c->group,
                            .version = "v1",
                            .resource = c->resource,
                            .subresource = c->subresource,
                            .ns = c->ns,
                            .name = c->name};
    return authz_check(z, a, &q, e);
}

/* "system:serviceaccount:NS:NAME": true, with its parts. */
static bool sa_split(struct arena *a, const char *user, const char **ns, const char **name) {
    if (!str_has_prefix(user, SA_PREFIX)) return false;
    const char *p = user + strlen(SA_PREFIX), *colon = strchr(p, ':');
    if (!colon || colon == p || !colon[1] || strchr(colon + 1, ':')) return false;
    *ns = arena_strndup(a, p, (size_t)(colon - p));
    *name = colon + 1;
    return true;
}

static int claims_check(struct authz *z, struct arena *a, const struct impersonation *i, const struct user_info *user,
                        struct err *e) {
    const char *ns = "", *name = "";
    bool sa = sa_split(a, i->user, &ns, &name);
    struct claim c =
        sa ? (struct claim){"", "serviceaccounts", NULL, ns, name} : (struct claim){"", "users", NULL, NULL, i->user};
    int r = claim_check(z, a, user, &c, e);
    for (size_t k = 0; k < i->n_groups && r == 0; k++)
        r = claim_check(z, a, user, &(struct claim){"", "groups", NULL, NULL, i->groups[k]}, e);
    for (size_t k = 0; k < i->n_extra && r == 0; k++)
        for (size_t v = 0; v < i->extra[k].n && r == 0; v++)
            r = claim_check(
                z, a, user,
                &(struct claim){"authentication.k8s.io", "userextras", i->extra[k].key, NULL, i->extra[k].values[v]},
                e);
    if (r == 0 && !str_empty(i->uid))
        r = claim_check(z, a, user, &(struct claim){"authentication.k8s.io", "uids", NULL, NULL, i->uid}, e);
    return r;
}

int authn_impersonate(struct authz *z, struct arena *a, const struct impersonation *i, struct user_info *user,
                      struct err *e) {
    if (str_empty(i->user)) {
        if (!i->n_groups && !i->n_extra && str_empty(i->uid)) return 0;
        return err_status(e, 400, "BadRequest", "impersonation of groups, uid or extra without impersonating a user");
    }
    int r = claims_check(z, a, i, user, e);
    if (r < 0) return r;
    struct user_info to = {.name = i->user, .uid = str_or_empty(i->uid), .extra = i->extra, .n_extra = i->n_extra};
    to.groups = arena_zalloc(a, (i->n_groups + 4) * sizeof(char *));
    for (size_t k = 0; k < i->n_groups; k++) to.groups[to.n_groups++] = i->groups[k];
    const char *ns, *name;
    if (!i->n_groups && sa_split(a, i->user, &ns, &name)) {
        to.groups[to.n_groups++] = "system:serviceaccounts";
        to.groups[to.n_groups++] = arena_printf(a, "system:serviceaccounts:%s", ns);
    }
    bool anonymous = str_eq(i->user, "system:anonymous");
    const char *how = anonymous ? "system:unauthenticated" : "system:authenticated";
    bool said = user_in_group(&to, how) || (!anonymous && user_in_group(&to, "system:unauthenticated"));
    if (!said) to.groups[to.n_groups++] = how;
    *user = to;
    return 0;
}
