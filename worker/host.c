/* See host.h: what every host shares. */
#include <unistd.h>

#include "common/mem.h"
#include "worker/host.h"

struct host_where host_where;
struct host_replay host_replay;
int host_stack_fd = STDERR_FILENO;

void
host_out_grow(struct host_out *o)
{
	o->cap = o->cap == 0 ? 8 : o->cap * 2;
	o->val = xreallocarray(o->val, o->cap, sizeof(*o->val));
}

void
host_window_reserve(struct host_window *w, size_t n)
{
	if (n <= w->cap)
		return;
	w->cap = n < 8 ? 8 : n * 2;
	w->time_ns = xreallocarray(w->time_ns, w->cap, sizeof(*w->time_ns));
}
