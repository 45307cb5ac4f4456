#!/usr/bin/env python3
"""What a KubeletConfiguration asks for: images that were pulled with a login are for those who have it, one pull at a
time, limits on restarts, CPU quotas, seccomp, images in the status; endpoints that are off; fields that are refused."""
import base64, json, os, subprocess, sys
from cluster import *

HOST = "127.0.0.1:21871"


def secret(name, password="password"):
    auth = base64.b64encode(f"user:{password}".encode()).decode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps({"auths": {HOST: {"auth": auth}}})}}


def logins(c):
    image = f"{HOST}/basic2:latest"
    uses = lambda name, policy="IfNotPresent", secrets=(): c.apply(pod(
        name, image=image, imagePullPolicy=policy, spec={"restartPolicy": "Never", "imagePullSecrets": [{"name": s} for s in secrets]}))
    there = lambda name: until(60, lambda: c.event(name, "already present on machine and can be accessed"))
    c.apply(secret("login"), secret("twin"), secret("wrong", "else"))
    uses("first", secrets=["login"])
    check("an image is pulled with a Secret", until(60, lambda: c.event("first", "Successfully pulled")), lambda: c.events("first"))
    uses("same", secrets=["login"])
    check("who has the Secret uses what is there", there("same"), lambda: c.events("same"))
    uses("twin", secrets=["twin"])
    check("so does who has another Secret with the same login", there("twin"), lambda: c.events("twin"))
    uses("none")
    check("who has none must pull, and cannot", until(60, lambda: c.waiting("none").get("reason") in ("ErrImagePull", "ImagePullBackOff")),
          lambda: c.events("none"))
    uses("never", "Never")
    check("with the policy Never it is as if it were not there", until(60, lambda: c.waiting("never").get("reason") == "ErrImageNeverPull"),
          lambda: c.events("never"))
    uses("wrong", secrets=["wrong"])
    check("a Secret with another login does not help", until(60, lambda: c.waiting("wrong").get("reason") in ("ErrImagePull", "ImagePullBackOff")),
          lambda: c.events("wrong"))
    c.kill("kubelet")
    uses("after", secrets=["twin"])
    check("a kubelet that was killed still knows", there("after"), lambda: c.events("after"))
    records = os.listdir(c.data + "/kubelet/image_manager/pulled")
    check("there is one record", len(records) == 1, records)
    with open(f"{c.data}/kubelet/image_manager/pulled/{records[0]}") as f:
        record = json.load(f)
    check("of the form of Kubernetes, without the login", record["kind"] == "ImagePulledRecord" and "password" not in json.dumps(record) and
          {s["name"] for s in record["credentialMapping"][f"{HOST}/basic2"]["kubernetesSecrets"]} == {"login", "twin"}, record)
    c.kubectl("delete", "pods", "--all", "--wait=true")


def main(c):
    check("the registry answers", until(60, lambda: c.inside("curl", "-s", f"http://{HOST}/counts").returncode == 0))
    logins(c)
    c.apply(pod("crash", "sh", "-c", "exit 1"), pod("limited", "sleep", "3600", resources={"limits": {"cpu": "100m", "memory": "32Mi"}}))
    check("restarts wait no longer than maxContainerRestartPeriod", until(60, lambda: c.main("crash").get("restartCount", 0) >= 4),
          lambda: c.main("crash"))
    check("and say so", until(60, lambda: "back-off 2s" in c.waiting("crash").get("message", "")), lambda: c.waiting("crash"))
    check("a container with a CPU limit runs", until(60, lambda: c.ready("limited")), lambda: c.events("limited"))
    status = c.kubectl("exec", "limited", "--", "cat", "/proc/self/status").stdout
    check("seccompDefault: with the runtime's filter", "Seccomp:\t2" in status, status)
    quota = c.kubectl("exec", "limited", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null").stdout
    check("cpuCFSQuota off: without a quota", quota.strip() == "-1" or quota.startswith("max"), quota)
    node = c.get("nodes")["items"][0]
    check("nodeStatusMaxImages", len(node["status"].get("images", [])) == 1, node["status"].get("images"))
    check("podsPerCore", int(node["status"]["capacity"]["pods"]) == 9 * os.cpu_count(), node["status"]["capacity"])
    shown = json.loads(c.kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/configz").stdout)["kubeletconfig"]
    check("/configz shows the settings", shown["serializeImagePulls"] is True and shown["cpuCFSQuota"] is False and
          shown["crashLoopBackOff"] == {"maxContainerRestartPeriod": "2s"} and shown["maxPods"] == 9 * os.cpu_count(), shown)
    proxy = f"/api/v1/nodes/{node['metadata']['name']}/proxy"
    listing = c.kubectl("get", "--raw", proxy + "/logs/").stdout
    check("/logs/ lists the machine's logs", '<a href="pods/">pods/</a>' in listing, listing)
    uid = c.get("pod", "limited")["metadata"]["uid"]
    c.kubectl("exec", "limited", "--", "sh", "-c", "echo a line in the log > /proc/1/fd/1")
    file = f"{proxy}/logs/pods/default_limited_{uid}/main/0.log"
    check("and serves them", until(60, lambda: "a line in the log" in c.kubectl("get", "--raw", file).stdout), lambda: c.kubectl("get", "--raw", file))
    check("nothing above them", c.kubectl("get", "--raw", proxy + "/logs/%2e%2e/%2e%2e/etc/hostname").returncode != 0)
    level = c.kubectl("replace", "--raw", proxy + "/debug/flags/v", "-f", "-", input="4")
    check("/debug/flags/v sets the log level", "successfully set klog.logging.verbosity to 4" in level.stdout + level.stderr, level)
    healthz = c.inside("curl", "-s", "http://127.0.0.1:10248/healthz")
    check("/healthz for this machine", healthz.stdout == "ok", healthz)
    check("and nothing else there", "404" in c.inside("curl", "-s", "http://127.0.0.1:10248/pods").stdout)
    with open(c.data + "/log/kubelet.log") as f:
        log = f.read()
    check("a field without effect is named in the log", 'field="registryPullQPS"' in log, log[:500])
    check("so is one that nobody knows", 'field="regsitryPullQPS"' in log, log[:500])

    def again(**fields):
        """Writes another configuration and has the kubelet start with it."""
        with open(c.data + "/kubelet.yaml", "w") as f:
            json.dump({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **fields}, f)
        c.kill("kubelet")
    again(enableDebuggingHandlers=False)
    disabled = lambda: "disabled" in c.kubectl("exec", "limited", "--", "true").stderr
    check("enableDebuggingHandlers off: no exec", until(60, disabled), lambda: c.kubectl("exec", "limited", "--", "true"))
    again(systemReservedCgroup="/system")
    refused = lambda: "systemReservedCgroup: /system is not supported" in open(c.data + "/log/kubelet.log").read()
    check("a policy that is not there is refused by name", until(60, refused), lambda: open(c.data + "/log/kubelet.log").read()[-500:])
    again()
    check("without it the kubelet is back", until(120, lambda: c.kubectl("exec", "limited", "--", "true").returncode == 0))


with Cluster("ct-kubeconf", kubelet_config={
        "serializeImagePulls": True, "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"}, "cpuCFSQuota": False, "seccompDefault": True,
        "nodeStatusMaxImages": 1, "podsPerCore": 9, "registryPullQPS": 7, "regsitryPullQPS": 7}) as cluster:
    registry = subprocess.Popen(["nsenter", "--net=/run/netns/" + cluster.name, sys.executable, TOP + "/e2e/pull_registry.py", HOST.split(":")[1]])
    try:
        main(cluster)
    finally:
        registry.kill()
        registry.wait()
finish()
