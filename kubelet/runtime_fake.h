/* A runtime in memory: sandboxes and containers are records, images are pulled in no time, containers run
 * until they are stopped. Behind a kubelet it makes a simulated node; in unit tests the functions below play
 * the world. */
#pragma once

#include "kubelet/runtime.h"

/* The newest container of this name ends with the code. False when none runs. */
bool runtime_fake_exit(struct runtime *rt, const char *pod_name, const char *container, int32_t code,
                       const char *reason);
/* All sandboxes of the pod stop, as after a reboot. */
void runtime_fake_kill_sandbox(struct runtime *rt, const char *pod_name);
/* Calls of this method fail with the code (0: no longer). */
void runtime_fake_fail(struct runtime *rt, enum runtime_method m, int code);
/* How often a method was called. */
unsigned runtime_fake_calls(struct runtime *rt, enum runtime_method m);
/* Number of containers of the name that exist, dead ones too. */
unsigned runtime_fake_count(struct runtime *rt, const char *pod_name, const char *container);
/* What ExecSync answers. */
void runtime_fake_exec_result(struct runtime *rt, int32_t code);
/* Images that are not there and cannot be pulled have "missing" in their name. Addresses are 10.x.y.z of this
 * prefix. */
