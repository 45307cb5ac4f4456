#!/usr/bin/env python3
"""Rules of a pod's life on a real runtime: a file of variables that an init container writes, a container whose end restarts
all of them, one that is restarted by rule, sidecars that end last, what the status and the events say."""
from cluster import *


def containers(c, name):
    status = c.get("pod", name).get("status", {})
    return {s["name"]: s for s in status.get("initContainerStatuses", []) + status.get("containerStatuses", [])}


def image(name, command, **fields):
    return {"name": name, "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["sh", "-c", command], **fields}


def bare(name, containers_, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": containers_, **spec}}


def files_of_variables(c):
    mount = [{"name": "v", "mountPath": "/v"}]
    key = lambda k, **more: {"valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "vars", "key": k, **more}}}
    init = lambda text: [image("write", f"printf \"{text}\" > /v/vars", volumeMounts=mount)]
    volumes = [{"name": "v", "emptyDir": {}}]
    c.apply(bare("reads", [image("main", "sleep 3600", env=[
                {"name": "ONE", **key("ONE")}, {"name": "LONG", **key("LONG")}, {"name": "NONE", **key("NONE", optional=True)}])],
                volumes=volumes, initContainers=init("# settings\\nONE='1 \\$x' # why\\nLONG='a\\nb'\\n")),
            bare("lacks", [image("main", "sleep 3600", env=[{"name": "TWO", **key("TWO")}])], volumes=volumes, initContainers=init("ONE='1'\\n")),
            bare("steals", [image("main", "sleep 3600", env=[{"name": "ONE", **key("ONE")}])], volumes=volumes,
                 initContainers=[image("write", "ln -s /etc/shadow /v/vars", volumeMounts=mount)]))
    check("a container gets variables from a file in a volume", until(60, lambda: c.ready("reads")), lambda: c.events("reads"))
    env = c.kubectl("exec", "reads", "--", "env").stdout
    check("literally, over several lines, and not what is missing", "\nONE=1 $x\n" in env and "\nLONG=a\nb\n" in env and "NONE=" not in env, env)
    check("a missing one that is needed is an error of configuration",
          until(60, lambda: c.waiting("lacks").get("reason") == "CreateContainerConfigError" and "TWO" in c.waiting("lacks")["message"]),
          lambda: c.waiting("lacks"))
    check("a link does not lead out of the volume", until(60, lambda: c.waiting("steals").get("reason") == "CreateContainerConfigError") and
          "root:" not in str(c.events("steals")), lambda: c.waiting("steals"))


def rules(c):
    rule = lambda action, code: {"restartPolicy": "Never", "restartPolicyRules": [
        {"action": action, "exitCodes": {"operator": "In", "values": [code]}}]}
    c.apply(bare("anew", [image("main", "[ $(wc -l < /v/starts) = 1 ] && { sleep 3; exit 42; }; sleep 3600", volumeMounts=[{"name": "v", "mountPath": "/v"}],
                                **rule("RestartAllContainers", 42)), image("other", "sleep 3600")],
                 restartPolicy="Never", volumes=[{"name": "v", "emptyDir": {}}],
                 initContainers=[image("init", "echo started >> /v/starts", volumeMounts=[{"name": "v", "mountPath": "/v"}])]),
            bare("again", [image("main", "[ -e /v/x ] && exit 1; touch /v/x; exit 7", volumeMounts=[{"name": "v", "mountPath": "/v"}], **rule("Restart", 7))],
                 restartPolicy="Never", volumes=[{"name": "v", "emptyDir": {}}]))
    counts = lambda name: {k: s.get("restartCount") for k, s in containers(c, name).items()}
    running = lambda: all("running" in s["state"] for k, s in containers(c, "anew").items() if k != "init") and set(counts("anew").values()) == {1}
    check("a container's end restarts all of the pod's", until(60, running), lambda: {k: (v["restartCount"], v["state"], v["lastState"]) for k, v in containers(c, "anew").items()})
    last = containers(c, "anew")["other"]["lastState"].get("terminated", {})
    check("the status says why", last.get("reason") == "RestartingAllContainers" and last.get("exitCode") == 137, last)
    check("init containers ran again, volumes stayed", c.kubectl("exec", "anew", "-c", "main", "--", "cat", "/v/starts").stdout == "started\n" * 2)
    check("the restart is over", until(60, lambda: c.condition("pod", "anew", "AllContainersRestarting") == "False" and c.phase("anew") == "Running"))
    check("a rule restarts what its policy would not; then the policy holds", until(60, lambda: c.phase("again") == "Failed") and
          counts("again") == {"main": 1}, lambda: containers(c, "again"))


def sidecars(c):
    side = lambda name: image(name, f"trap 'echo {name} >> /v/ends; exit 0' TERM; while :; do sleep 0.1; done", restartPolicy="Always",
                              volumeMounts=[{"name": "v", "mountPath": "/v"}])
    c.apply(bare("job", [image("main", "sleep 2; echo main >> /v/ends", volumeMounts=[{"name": "v", "mountPath": "/v"}])], restartPolicy="Never",
                 initContainers=[side("first"), side("second")], volumes=[{"name": "v", "hostPath": {"path": c.dir}}]))
    check("a pod ends after its sidecars", until(60, lambda: c.phase("job") == "Succeeded"), lambda: containers(c, "job"))
    with open(c.dir + "/ends") as f:
        ends = f.read().split()
    check("which end after it, the last one started first", ends == ["main", "second", "first"], ends)
    codes = {k: s["state"].get("terminated", {}).get("exitCode") for k, s in containers(c, "job").items()}
    check("all by themselves", set(codes.values()) == {0}, codes)


def says(c):
    c.apply(pod("sums", "sleep", "3600", resources={"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "32Mi"}}))
    check("a pod runs", until(60, lambda: c.ready("sums")))
    status = c.get("pod", "sums")["status"]
    check("its status sums up its resources", status.get("allocatedResources") == {"cpu": "50m", "memory": "16Mi"} and
          status.get("resources") == {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "32Mi"}}, status)
    order = [x["type"] for x in status["conditions"]]
    check("its conditions stand in Kubernetes' order", order == ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"], order)
    check("and are about its generation", {x.get("observedGeneration") for x in status["conditions"]} == {status.get("observedGeneration")}, status)
    node = c.get("nodes")["items"][0]["metadata"]["name"]
    c.kubectl("cordon", node)
    check("events tell of the node", until(60, lambda: all(c.event(node, w) for w in (
        "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady", "NodeAllocatableEnforced", "NodeNotSchedulable"))),
        lambda: c.events(node))


with Cluster("ct-rules") as cluster:
    files_of_variables(cluster)
    rules(cluster)
    sidecars(cluster)
    says(cluster)
finish()
