/* The choice of ids for pods with user namespaces. */
#include "kubelet/userns.h"

#include "kubelet/safepath.h"
#include "tests/test.h"

static uint32_t host_id(struct kubelet *kl, const char *uid) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct core_pod p = {.metadata.uid = uid};
    struct cri_user_namespace *u = NULL;
    CHECK_INT(userns_of(kl, a, &p, &u, NULL), 0);
    CHECK_INT(u->uids.items[0].length, 65536);
    CHECK_INT(u->gids.items[0].host_id, u->uids.items[0].host_id);
    return u->uids.items[0].host_id;
}

TEST(each_pod_has_ids_of_its_own_and_keeps_them) {
    char dir[] = "/tmp/userns_test.XXXXXX";
    REQUIRE(mkdtemp(dir) != NULL);
    struct kubelet kl = {.cfg.root_dir = dir};
    uint32_t one = host_id(&kl, "one"), two = host_id(&kl, "two");
    CHECK(one >= 65536 && one % 65536 == 0);
    CHECK(one != two);
    CHECK_INT(host_id(&kl, "one"), one);
    _cleanup_free_ char *gone = xasprintf("%s/pods/one", dir);
    CHECK_INT(path_remove_tree(gone, NULL), 0);
    CHECK(host_id(&kl, "three") != two);
    CHECK_INT(host_id(&kl, "two"), two);
    path_remove_tree(dir, NULL);
}

TEST(a_broken_file_is_no_choice) {
    char dir[] = "/tmp/userns_test.XXXXXX";
    REQUIRE(mkdtemp(dir) != NULL);
    struct kubelet kl = {.cfg.root_dir = dir};
    _cleanup_free_ char *pod = xasprintf("%s/pods/x", dir), *file = xasprintf("%s/userns", pod);
    static const char bad[] = "{\"uidMappings\":[{\"hostId\":7}]}";
    mkdir_p(pod, 0755);
    file_write_atomic(file, bad, strlen(bad), 0600);
    CHECK(host_id(&kl, "x") >= 65536);
    path_remove_tree(dir, NULL);
}
