/* See host.h: what every host shares. */
#include "common/mem.h"
#include "worker/host.h"

void
host_out_add(struct host_out *o, host_val v)
{
	if (o->n == o->cap) {
		o->cap = o->cap == 0 ? 8 : o->cap * 2;
		o->val = xreallocarray(o->val, o->cap, sizeof(*o->val));
	}
	o->val[o->n++] = v;
}
