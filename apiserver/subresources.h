/* Handlers of single subresources, called by handle_subresource. */
#pragma once

#include "apiserver/request.h"

void handle_binding(struct request *q);  /* pods/binding, and POST on bindings */
void handle_scale(struct request *q);    /* scale.c */
void handle_eviction(struct request *q); /* eviction.c */
void handle_token(struct request *q);    /* token.c */
