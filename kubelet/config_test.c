/* Tests of config_file.h: no field of a KubeletConfiguration is passed over in silence. */
#include "kubelet/config_file.h"

#include <signal.h>
#include <sys/wait.h>

#include "kubelet/lockfile.h"
#include "tests/test.h"

/* The strings of a configuration live as long as the program. */
static struct kubelet_config kept[32];
static size_t n_kept;

/* Text of a file, in a folder that the test's arena names; what config_file_read says of it. */
static int reads(const char *body, struct kubelet_config *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    char dir[] = "/tmp/kubelet-config-XXXXXX";
    CHECK(mkdtemp(dir) != NULL);
    const char *path = arena_printf(a, "%s/config.yaml", dir);
    const char *text =
        arena_printf(a, "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n%s", body);
    CHECK_INT(file_write_atomic(path, text, strlen(text), 0600), 0);
    kubelet_config_init(c);
    int r = config_file_read(path, NULL, c, e);
    kept[n_kept++] = *c;
    unlink(path);
    rmdir(dir);
    return r;
}

TEST(what_is_not_there_is_refused_by_name) {
    static const struct {
        const char *body, *field;
    } rows[] = {
        {"systemReservedCgroup: /system\n", "systemReservedCgroup: /system is not supported"},
        {"memorySwap: {swapBehavior: UnlimitedSwap}\n", "memorySwap.swapBehavior"},
        {"userNamespaces: {idsPerPod: 131072}\n", "userNamespaces.idsPerPod"},
        {"readOnlyPort: 10255\n", "readOnlyPort"},
        {"enforceNodeAllocatable: [pods, system-reserved]\n", "enforceNodeAllocatable: system-reserved"},
        {"imagePullCredentialsVerificationPolicy: Sometimes\n", "imagePullCredentialsVerificationPolicy"},
        {"crashLoopBackOff: {maxContainerRestartPeriod: 10m}\n", "crashLoopBackOff.maxContainerRestartPeriod"},
        {"serializeImagePulls: true\nmaxParallelImagePulls: 4\n", "maxParallelImagePulls"},
        {"maxPods: many\n", "maxPods has a value of the wrong type"},
        {"tlsMinVersion: VersionTLS9\n", "tlsMinVersion"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        struct kubelet_config c;
        CHECK(reads(rows[i].body, &c, &e) < 0);
        CHECK(strstr(e.msg, rows[i].field));
    }
}

TEST(drop_ins_are_merged_in_their_order) {
    _cleanup_arena_ struct arena *a = arena_new();
    char dir[] = "/tmp/config-dir-XXXXXX";
    REQUIRE(mkdtemp(dir));
    static const char *const files[][2] = {
        {"10-first.conf", "maxPods: 50\nevictionHard: {memory.available: 200Mi}\nclusterDNS: [10.0.0.1, 10.0.0.2]\n"},
        {"20-second.conf", "maxPods: 60\nclusterDNS: [10.0.0.3]\nevictionHard: {nodefs.available: 5%}\n"},
        {"ignored.yaml", "maxPods: 70\n"},
        {"more/30-third.conf", "podPidsLimit: 99\n"}};
    mkdir_p(arena_printf(a, "%s/more", dir), 0755);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const char *text =
            arena_printf(a, "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n%s", files[i][1]);
        file_write_quick(arena_printf(a, "%s/%s", dir, files[i][0]), text, strlen(text), 0600);
    }
    struct kubelet_config c;
    _cleanup_err_ struct err e = {0};
    kubelet_config_init(&c);
    CHECK_INT(config_file_read(NULL, dir, &c, &e), 0);
    kept[n_kept++] = c;
    CHECK_INT(c.max_pods, 60);
    CHECK_INT(c.pod_pids_limit, 99);
    CHECK_STR(c.eviction_hard, "memory.available<200Mi,nodefs.available<5%");
    CHECK_INT(c.cluster_dns.n, 1); /* lists are replaced */
    file_write_quick(arena_printf(a, "%s/40.conf", dir), "kind: Pod\n", 10, 0600);
    CHECK_INT(config_file_read(NULL, dir, &c, &e), -EINVAL);
    CHECK(strstr(e.msg, "40.conf is no KubeletConfiguration"));
    kept[n_kept++] = c;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) unlink(arena_printf(a, "%s/%s", dir, files[i][0]));
    unlink(arena_printf(a, "%s/40.conf", dir));
    rmdir(arena_printf(a, "%s/more", dir));
    rmdir(dir);
}

static struct core_pod *pod_with_memory(struct arena *a, const char *request, const char *limit) {
    struct core_pod *p = arena_zalloc(a, sizeof(*p));
    const char *text = arena_printf(a,
                                    "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{%s},"
                                    "\"limits\":{%s}}}]}}",
                                    request, limit);
    CHECK_INT(api_from_json(a, &api_core_pod, text, strlen(text), p, NULL), 0);
    return p;
}

TEST(swap_is_given_by_the_part_of_memory) {
    static const struct {
        bool available, limited;
        const char *request, *limit;
        int64_t bytes;
    } rows[] = {
        {false, true, "\"memory\":\"1Gi\"", "", -1},
        {true, false, "\"memory\":\"1Gi\"", "", 0},
        {true, true, "\"memory\":\"1Gi\"", "", 512 << 20},
        {true, true, "\"memory\":\"1Gi\"", "\"memory\":\"2Gi\"", 512 << 20},
        {true, true, "\"memory\":\"1Gi\",\"cpu\":\"1\"", "\"memory\":\"1Gi\"",
         0}, /* all it may have it has asked for */
        {true, true, "\"cpu\":\"1\"", "", 0},
        {true, true, "", "", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct core_pod *p = pod_with_memory(a, rows[i].request, rows[i].limit);
        struct swap s = {rows[i].available, rows[i].limited, INT64_C(4) << 30, INT64_C(2) << 30};
        CHECK_INT(swap_limit(&s, p, &p->spec.containers.items[0]), rows[i].bytes);
    }
}

TEST(swap_that_cgroups_cannot_limit_is_left_alone) {
    _cleanup_arena_ struct arena *a = arena_new();
    char dir[] = "/tmp/swap-XXXXXX";
    REQUIRE(mkdtemp(dir));
    const char *meminfo = arena_printf(a, "%s/meminfo", dir), *v2 = arena_printf(a, "%s/cgroup.controllers", dir),
               *file = arena_printf(a, "%s/kubepods/memory.swap.max", dir);
    static const char text[] = "MemTotal:        4194304 kB\nSwapTotal:       2097152 kB\n";
    file_write_quick(meminfo, text, strlen(text), 0600);
    struct swap s = swap_of_machine(dir, meminfo, "LimitedSwap");
    CHECK(!s.available && s.limited);
    CHECK_INT(s.amount, INT64_C(2) << 30);
    mkdir_p(arena_printf(a, "%s/kubepods", dir), 0755);
    file_write_quick(v2, "memory", 6, 0600);
    file_write_quick(file, "max", 3, 0600);
    CHECK(swap_of_machine(dir, meminfo, "NoSwap").available);
    unlink(meminfo);
    unlink(v2);
    unlink(file);
    rmdir(arena_printf(a, "%s/kubepods", dir));
    rmdir(dir);
}

TEST(what_kubeadm_writes_is_taken) {
    static const char body[] =
        "authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}}\n"
        "authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}\n"
        "cgroupDriver: systemd\ncontainerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {}\n"
        "evictionPressureTransitionPeriod: 0s\nfileCheckFrequency: 0s\nhealthzBindAddress: 127.0.0.1\n"
        "healthzPort: 10248\nhttpCheckFrequency: 0s\nimageMaximumGCAge: 0s\nimageMinimumGCAge: 0s\n"
        "logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}\nmemorySwap: {}\n"
        "nodeStatusReportFrequency: 0s\nrotateCertificates: true\nruntimeRequestTimeout: 0s\n"
        "streamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\nvolumeStatsAggPeriod: 0s\n";
    struct kubelet_config c;
    CHECK_INT(reads(body, &c, NULL), 0);
    CHECK_INT(c.image_min_age_ns, 120 * NS_PER_SEC);
    CHECK_INT(c.token_ttl_ns, 120 * NS_PER_SEC);
}

TEST(settings_have_their_effect) {
    static const char body[] =
        "enableServer: false\nevictionHard: {memory.available: 5%}\nmergeDefaultEvictionSettings: true\n"
        "cpuCFSQuota: false\nseccompDefault: true\npodsPerCore: 3\ntlsMinVersion: VersionTLS13\nfutureField: {x: 1}\n"
        "crashLoopBackOff: {maxContainerRestartPeriod: 5s}\n";
    struct kubelet_config c;
    CHECK_INT(reads(body, &c, NULL), 0);
    CHECK_INT(c.port, 0);
    CHECK(str_has_prefix(c.eviction_hard, "memory.available<5%,") && strstr(c.eviction_hard, "nodefs.available<10%"));
    CHECK(!strstr(c.eviction_hard, "100Mi"));
    CHECK(!c.cfs_quota && c.seccomp_default && c.tls13);
    CHECK_INT(c.crash_loop_max_ns, 5 * NS_PER_SEC);
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *shown = config_file_show(a, &c);
    CHECK_STR(json_get_str(json_get(shown, "crashLoopBackOff"), "maxContainerRestartPeriod"), "5s");
    CHECK_STR(json_get_str(json_get(shown, "evictionHard"), "memory.available"), "5%");
}

/* Every field of v1.36's type: nothing but "unknown" is wrong about any of them. */
TEST(every_field_is_known) {
    static const char *const fields[] = {"enableServer",
                                         "staticPodPath",
                                         "podLogsDir",
                                         "syncFrequency",
                                         "fileCheckFrequency",
                                         "httpCheckFrequency",
                                         "staticPodURL",
                                         "staticPodURLHeader",
                                         "address",
                                         "port",
                                         "readOnlyPort",
                                         "volumePluginDir",
                                         "providerID",
                                         "tlsCertFile",
                                         "tlsPrivateKeyFile",
                                         "tlsCipherSuites",
                                         "tlsMinVersion",
                                         "tlsCurvePreferences",
                                         "rotateCertificates",
                                         "serverTLSBootstrap",
                                         "authentication",
                                         "authorization",
                                         "registryPullQPS",
                                         "registryBurst",
                                         "imagePullCredentialsVerificationPolicy",
                                         "preloadedImagesVerificationAllowlist",
                                         "eventRecordQPS",
                                         "eventBurst",
                                         "enableDebuggingHandlers",
                                         "enableContentionProfiling",
                                         "healthzPort",
                                         "healthzBindAddress",
                                         "oomScoreAdj",
                                         "clusterDomain",
                                         "clusterDNS",
                                         "streamingConnectionIdleTimeout",
                                         "nodeStatusUpdateFrequency",
                                         "nodeStatusReportFrequency",
                                         "nodeLeaseDurationSeconds",
                                         "imageMinimumGCAge",
                                         "imageMaximumGCAge",
                                         "imageGCHighThresholdPercent",
                                         "imageGCLowThresholdPercent",
                                         "volumeStatsAggPeriod",
                                         "kubeletCgroups",
                                         "systemCgroups",
                                         "cgroupRoot",
                                         "cgroupsPerQOS",
                                         "cgroupDriver",
                                         "singleProcessOOMKill",
                                         "cpuManagerPolicy",
                                         "cpuManagerPolicyOptions",
                                         "cpuManagerReconcilePeriod",
                                         "memoryManagerPolicy",
                                         "topologyManagerPolicy",
                                         "topologyManagerScope",
                                         "topologyManagerPolicyOptions",
                                         "qosReserved",
                                         "runtimeRequestTimeout",
                                         "hairpinMode",
                                         "maxPods",
                                         "podCIDR",
                                         "podPidsLimit",
                                         "resolvConf",
                                         "runOnce",
                                         "cpuCFSQuota",
                                         "cpuCFSQuotaPeriod",
                                         "nodeStatusMaxImages",
                                         "maxOpenFiles",
                                         "contentType",
                                         "kubeAPIQPS",
                                         "kubeAPIBurst",
                                         "serializeImagePulls",
                                         "maxParallelImagePulls",
                                         "evictionHard",
                                         "evictionSoft",
                                         "evictionSoftGracePeriod",
                                         "evictionPressureTransitionPeriod",
                                         "evictionMaxPodGracePeriod",
                                         "evictionMinimumReclaim",
                                         "mergeDefaultEvictionSettings",
                                         "podsPerCore",
                                         "enableControllerAttachDetach",
                                         "protectKernelDefaults",
                                         "makeIPTablesUtilChains",
                                         "iptablesMasqueradeBit",
                                         "iptablesDropBit",
                                         "featureGates",
                                         "failSwapOn",
                                         "memorySwap",
                                         "containerLogMaxSize",
                                         "containerLogMaxFiles",
                                         "containerLogMaxWorkers",
                                         "containerLogMonitorInterval",
                                         "configMapAndSecretChangeDetectionStrategy",
                                         "systemReserved",
                                         "kubeReserved",
                                         "reservedSystemCPUs",
                                         "showHiddenMetricsForVersion",
                                         "systemReservedCgroup",
                                         "kubeReservedCgroup",
                                         "enforceNodeAllocatable",
                                         "allowedUnsafeSysctls",
                                         "kernelMemcgNotification",
                                         "logging",
                                         "enableSystemLogHandler",
                                         "enableSystemLogQuery",
                                         "shutdownGracePeriod",
                                         "shutdownGracePeriodCriticalPods",
                                         "shutdownGracePeriodByPodPriority",
                                         "crashLoopBackOff",
                                         "reservedMemory",
                                         "enableProfilingHandler",
                                         "enableDebugFlagsHandler",
                                         "seccompDefault",
                                         "memoryThrottlingFactor",
                                         "memoryReservationPolicy",
                                         "registerWithTaints",
                                         "registerNode",
                                         "tracing",
                                         "localStorageCapacityIsolation",
                                         "containerRuntimeEndpoint",
                                         "imageServiceEndpoint",
                                         "failCgroupV1",
                                         "userNamespaces"};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) CHECK_STR(config_file_knows(fields[i]) ? NULL : fields[i], NULL);
}

TEST(a_kubelet_leaves_when_another_wants_its_lock) {
    char dir[] = "/tmp/kubelet-lock-XXXXXX";
    CHECK(mkdtemp(dir) != NULL);
    _cleanup_free_ char *path = xasprintf("%s/lock", dir);
    int held[2], status = 0;
    CHECK_INT(pipe(held), 0);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = lockfile_acquire(path, true, NULL) == 0 && write(held[1], "x", 1) == 1;
        while (ok) pause();
        _exit(1);
    }
    char c;
    CHECK_INT(read(held[0], &c, 1), 1);
    CHECK_INT(lockfile_acquire(path, false, NULL), 0); /* once the other has gone */
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    close(held[0]);
    close(held[1]);
    unlink(path);
    rmdir(dir);
}
