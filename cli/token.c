/* coracle token: bootstrap tokens (Secrets of type bootstrap.kubernetes.io/token in kube-system). */
#include "cli/cli.h"
#include "pkg/api/core.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/client/client.h"
#include "pkg/pki/cluster.h"

static const char token_type[] = "bootstrap.kubernetes.io/token";

static void random_text(char *out, size_t n) {
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    for (size_t i = 0; i < n; i++) {
        unsigned char b;
        do random_bytes(&b, 1);
        while (b >= 252);
        out[i] = alphabet[b % 36];
    }
    out[n] = 0;
}

static const char *data_of(struct arena *a, const struct core_secret *s, const char *key) {
    for (size_t i = 0; i < s->data.n; i++)
        if (str_eq(s->data.items[i].key, key))
            return arena_strndup(a, (const char *)s->data.items[i].value.p, s->data.items[i].value.n);
    return NULL;
}

static int create(const struct layout *l, struct client *c, const char *file, int64_t ttl_ns, struct err *e) {
    char id[7], secret[17], expires[KTIME_MAX];
    random_text(id, 6);
    random_text(secret, 16);
    ktime_format(ktime_add_ns(ktime_now(), ttl_ns), expires);
    struct str_map_entry data[] = {
        {"auth-extra-groups", "system:bootstrappers:coracle:default-node-token"},
        {"description", "made by coracle token create"},
        {"expiration", expires},
        {"token-id", id},
        {"token-secret", secret},
        {"usage-bootstrap-authentication", "true"},
        {"usage-bootstrap-signing", "true"},
    };
    struct core_secret s = {0};
    s.metadata.name = arena_printf(l->a, "bootstrap-token-%s", id);
    s.type = token_type;
    s.string_data = (struct str_map){data, ARRAY_LEN(data)};
    int r = client_create(c, l->a, &client_secrets, "kube-system", &s, NULL, NULL, e);
    if (r < 0) return r;
    const char *token = arena_printf(l->a, "%s.%s", id, secret);
    if (!file) {
        printf("%s\n", token);
        return 0;
    }
    _cleanup_free_ char *ca = NULL;
    if ((r = file_read(layout_data(l, "pki/ca.crt"), 1 << 20, &ca, NULL)) < 0)
        return err_errno(e, r, "%s/pki/ca.crt", l->data);
    const char *text =
        pki_kubeconfig_token(l->a, arena_printf(l->a, "https://%s:%lld", l->node_ip, (long long)l->port), ca, token);
    if ((r = file_write_atomic(file, text, strlen(text), 0600)) < 0) return err_errno(e, r, "cannot write %s", file);
    printf("wrote %s; on the machine that joins: sudo coracle join %s   (valid until %s)\n", file, file, expires);
    return 0;
}

static int list(const struct layout *l, struct client *c, struct err *e) {
    struct client_list secrets;
    struct client_list_opts o = {.field_selector = "type=bootstrap.kubernetes.io/token"};
    int r = client_list(c, l->a, &client_secrets, "kube-system", &o, &secrets, e);
    if (r < 0) return r;
    printf("%-10s %-22s %s\n", "ID", "EXPIRES", "DESCRIPTION");
    for (size_t i = 0; i < secrets.n; i++) {
        const struct core_secret *s = secrets.items[i];
        printf("%-10s %-22s %s\n", str_or_empty(data_of(l->a, s, "token-id")),
               str_or_empty(data_of(l->a, s, "expiration")), str_or_empty(data_of(l->a, s, "description")));
    }
    return 0;
}

int cmd_token(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN};
    const char *file = NULL;
    int64_t ttl = 24 * 3600 * NS_PER_SEC;
    const struct flag flags[] = {
        LAYOUT_FLAGS(l),
        {"kubeconfig", 0, FLAG_STR, &file, "FILE", "create: write the file that \"coracle join\" takes"},
        {"ttl", 0, FLAG_DURATION, &ttl, "TIME", "create: how long the token is good"},
        {0}};
    int n = flags_main("coracle token", "coracle token create | list | delete ID: the tokens with which nodes join.",
                       flags, argc, argv, 2);
    const char *verb = n > 0 ? argv[1] : "";
    int r = layout_load(&l, &e);
    if (r == 0) r = layout_complete(&l, &e);
    _cleanup_client_ struct client *c = NULL;
    struct client_config cfg = {.user_agent = "coracle", .timeout_ms = 10000};
    if (r == 0) r = client_new_from_kubeconfig(layout_data(&l, "admin.kubeconfig"), &cfg, &c, &e);
    if (r < 0) return cli_fail(&e);
    if (str_eq(verb, "create") && n == 1)
        r = ttl > 0 ? create(&l, c, file, ttl, &e) : err_set(&e, -EINVAL, "--ttl must be positive");
    else if (str_eq(verb, "list") && n == 1)
        r = list(&l, c, &e);
    else if (str_eq(verb, "delete") && n == 2)
        r = client_delete(c, &client_secrets, "kube-system",
                          arena_printf(a, "bootstrap-token-%.*s", (int)strcspn(argv[2], "."), argv[2]), NULL, &e);
    else
        r = err_set(&e, -EINVAL, "say create, list or delete ID (see coracle token --help)");
    return r < 0 ? cli_fail(&e) : 0;
}
