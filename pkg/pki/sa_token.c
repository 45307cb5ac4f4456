/* Claims of service-account tokens: those bound to time and objects (kubernetes.io claims), and the legacy ones of
 * Secrets (flat claims, no end). Upstream: pkg/serviceaccount/claims.go and legacy.go. See jwt.h. */
#include "pkg/base/bytes.h"
#include "pkg/pki/jwt.h"

#define SA_PREFIX "system:serviceaccount:"
#define LEGACY_ISSUER "kubernetes/serviceaccount"
#define LEGACY(name) "kubernetes.io/serviceaccount/" name

static struct json *legacy_claims(struct arena *a, const struct sa_token *t) {
    struct json *o = json_object(a);
    json_set_str(a, o, "iss", LEGACY_ISSUER);
    json_set_str(a, o, LEGACY("namespace"), t->ns);
    json_set_str(a, o, LEGACY("secret.name"), t->secret_name);
    json_set_str(a, o, LEGACY("service-account.name"), t->name);
    json_set_str(a, o, LEGACY("service-account.uid"), t->uid);
    json_set(a, o, "sub", json_strf(a, SA_PREFIX "%s:%s", t->ns, t->name));
    return o;
}

static void set_ref(struct arena *a, struct json *o, const char *key, const char *name, const char *uid) {
    if (!name) return;
    struct json *ref = json_object(a);
    json_set_str(a, ref, "name", name);
    if (!str_empty(uid)) json_set_str(a, ref, "uid", uid);
    json_set(a, o, key, ref);
}

struct json *sa_token_claims(struct arena *a, const struct sa_token *t, struct ktime now) {
    if (t->legacy) return legacy_claims(a, t);
    struct json *o = json_object(a), *aud = json_array(a);
    for (size_t i = 0; i < t->n_audiences; i++) json_append(a, aud, json_str(a, t->audiences[i]));
    json_set(a, o, "aud", aud);
    if (t->expires_in) json_set_int(a, o, "exp", now.sec + t->expires_in);
    json_set_int(a, o, "iat", now.sec);
    json_set_str(a, o, "iss", t->issuer);
    char id[37];
    uuid_new(id);
    json_set_str(a, o, "jti", t->jti ? t->jti : id);
    struct json *k = json_ensure_object(a, o, "kubernetes.io");
    json_set_str(a, k, "namespace", t->ns);
    set_ref(a, k, "node", t->node_name, t->node_uid);
    set_ref(a, k, "pod", t->pod_name, t->pod_uid);
    set_ref(a, k, "secret", t->secret_name, t->secret_uid);
    set_ref(a, k, "serviceaccount", t->name, t->uid);
    if (t->warn_after_in) json_set_int(a, k, "warnafter", now.sec + t->warn_after_in);
    json_set_int(a, o, "nbf", now.sec);
    json_set(a, o, "sub", json_strf(a, SA_PREFIX "%s:%s", t->ns, t->name));
    return o;
}

static void get_ref(const struct json *k, const char *key, const char **name, const char **uid) {
    *name = json_get_str(json_get(k, key), "name");
    *uid = json_get_str(json_get(k, key), "uid");
}

/* `aud` may be one string or a list. */
static void read_audiences(struct arena *a, const struct json *aud, struct sa_token *out) {
    size_t n = json_is(aud, JSON_STRING) ? 1 : json_len(aud);
    out->audiences = arena_zalloc(a, (n + 1) * sizeof(char *));
    const char **list = (const char **)out->audiences;
    if (json_is(aud, JSON_STRING)) list[out->n_audiences++] = json_as_str(aud);
    const struct json *it;
    if (json_is(aud, JSON_ARRAY))
        JSON_FOREACH(it, aud)
            if (json_as_str(it)) list[out->n_audiences++] = json_as_str(it);
}

int sa_token_parse(struct arena *a, const struct json *claims, struct sa_token *out, struct err *e) {
    *out = (struct sa_token){.issuer = json_get_str(claims, "iss")};
    const struct json *k = json_get(claims, "kubernetes.io");
    if (str_eq(out->issuer, LEGACY_ISSUER)) {
        out->legacy = true;
        out->ns = json_get_str(claims, LEGACY("namespace"));
        out->name = json_get_str(claims, LEGACY("service-account.name"));
        out->uid = json_get_str(claims, LEGACY("service-account.uid"));
        out->secret_name = json_get_str(claims, LEGACY("secret.name"));
        if (str_empty(out->secret_name)) return err_set(e, -EACCES, "token without its secret's name");
    } else {
        out->ns = json_get_str(k, "namespace");
        get_ref(k, "serviceaccount", &out->name, &out->uid);
        get_ref(k, "pod", &out->pod_name, &out->pod_uid);
        get_ref(k, "secret", &out->secret_name, &out->secret_uid);
        get_ref(k, "node", &out->node_name, &out->node_uid);
        out->jti = json_get_str(claims, "jti");
        read_audiences(a, json_get(claims, "aud"), out);
        int64_t iat = json_get_int(claims, "iat", 0), exp = json_get_int(claims, "exp", 0);
        if (iat) out->issued = (struct ktime){.sec = iat, .set = true};
        if (exp) out->expires = (struct ktime){.sec = exp, .set = true};
    }
    if (str_empty(out->ns) || str_empty(out->name) || str_empty(out->uid))
        return err_set(e, -EACCES, "not a service account's token");
    const char *sub = arena_printf(a, SA_PREFIX "%s:%s", out->ns, out->name);
    if (!str_eq(json_get_str(claims, "sub"), sub))
        return err_set(e, -EACCES, "token's subject is not its service account");
    return 0;
}
