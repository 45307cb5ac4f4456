#pragma once

#include "apiserver/apiserver.h"
#include "apiserver/follow.h"

/* Follows FlowSchemas and APIServices; follower_free ends it. */
struct follower *conditions_start(struct apiserver *s);

/* ---- also for others ---- */
struct json *condition_make(struct arena *a, const char *type, bool status, const char *reason, const char *message);
/* Puts it in obj.status.conditions in place of one of its type. False when that one says the same already. */
bool condition_put(struct arena *a, struct json *obj, struct json *c);
/* Writes the object's status as the server; a conflict is no error (the newer object will come by). */
int status_write(struct apiserver *s, struct arena *a, const struct object *o, struct json *obj, struct err *e);
