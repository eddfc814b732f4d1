/* Processes, virtual time, and when somebody is killed; see sim.h. */
#include <sys/mman.h>
#include <sys/wait.h>

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SIM_KERNEL
#define WALLAROO_FAULTS
#include "common/fault.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"

#define STACK		(256 * 1024)
#define HEAP		(32 * 1024 * 1024)
#define FIRST_PID	100

struct proc procs[PROCS];
struct proc *current;
uint64_t now_ns;
struct killer killer;
bool failed;

const char *const phase_names[PHASES] = { "opening", "opened", "cutting",
    "replaying", "running", "draining", "finishing" };
#define POINT_NAME(name)	#name,
#define POINT_FAULT(name, process, needs, kinds, text)	"fault " #name,
const char *const point_names[] = { POINT_CALLS(POINT_NAME)
    POINT_CHANGES(POINT_NAME) FAULT_TABLE(POINT_FAULT) };

static int next_pid;
static bool stopped;

/* --- events -------------------------------------------------------------- */

struct event {
	uint64_t	 when;
	uint64_t	 order;		/* of two at once */
	void		(*f)(void *, uint64_t);
	void		*arg;
	uint64_t	 number;
};

static struct event *heap;
static size_t nheap, heap_cap;
static uint64_t order;

static bool
before(const struct event *a, const struct event *b)
{
	return (a->when < b->when || (a->when == b->when &&
	    a->order < b->order));
}

void
sched_at(uint64_t when, void (*f)(void *, uint64_t), void *arg,
    uint64_t number)
{
	struct event e = { when < now_ns ? now_ns : when, order++, f, arg,
	    number };
	size_t i, up;

	if (nheap == heap_cap) {
		heap_cap = heap_cap == 0 ? 256 : heap_cap * 2;
		heap = realloc(heap, heap_cap * sizeof(*heap));
		assert(heap != NULL);
	}
	for (i = nheap++; i > 0 && before(&e, &heap[up = (i - 1) / 2]); i = up)
		heap[i] = heap[up];
	heap[i] = e;
}

static struct event
next_event(void)
{
	struct event first = heap[0], last = heap[--nheap];
	size_t i = 0, down;

	while ((down = 2 * i + 1) < nheap) {
		if (down + 1 < nheap && before(&heap[down + 1], &heap[down]))
			down++;
		if (!before(&heap[down], &last))
			break;
		heap[i] = heap[down];
		i = down;
	}
	heap[i] = last;
	return (first);
}

void
sched_stop(void)
{
	stopped = true;
}

void
sched_run(void)
{
	struct event e;

	stopped = false;
	while (!stopped && !failed && nheap > 0) {
		e = next_event();
		if (e.when > now_ns)
			now_ns = e.when;
		e.f(e.arg, e.number);
	}
}

/* --- switching ----------------------------------------------------------- */

/*
 * Save the registers that a call preserves, go to another stack.  The C
 * library's swapcontext makes two system calls each time, which was a third
 * of the whole simulation.
 */
#if defined(__x86_64__)
void sim_switch(void **save, void *load);
__asm__(
    ".text\n"
    ".globl sim_switch\n"
    ".type sim_switch,@function\n"
    "sim_switch:\n"
    "	pushq %rbp\n	pushq %rbx\n	pushq %r12\n"
    "	pushq %r13\n	pushq %r14\n	pushq %r15\n"
    "	movq %rsp, (%rdi)\n"
    "	movq %rsi, %rsp\n"
    "	popq %r15\n	popq %r14\n	popq %r13\n"
    "	popq %r12\n	popq %rbx\n	popq %rbp\n"
    "	ret\n"
    ".size sim_switch,.-sim_switch\n"
    ".section .note.GNU-stack,\"\",@progbits\n"
    ".text\n");
#elif defined(__aarch64__)
void sim_switch(void **save, void *load);
__asm__(
    ".text\n"
    ".globl sim_switch\n"
    ".type sim_switch,%function\n"
    "sim_switch:\n"
    "	stp x29, x30, [sp, #-160]!\n"
    "	stp x19, x20, [sp, #16]\n	stp x21, x22, [sp, #32]\n"
    "	stp x23, x24, [sp, #48]\n	stp x25, x26, [sp, #64]\n"
    "	stp x27, x28, [sp, #80]\n	stp d8, d9, [sp, #96]\n"
    "	stp d10, d11, [sp, #112]\n	stp d12, d13, [sp, #128]\n"
    "	stp d14, d15, [sp, #144]\n"
    "	mov x9, sp\n	str x9, [x0]\n	mov sp, x1\n"
    "	ldp x19, x20, [sp, #16]\n	ldp x21, x22, [sp, #32]\n"
    "	ldp x23, x24, [sp, #48]\n	ldp x25, x26, [sp, #64]\n"
    "	ldp x27, x28, [sp, #80]\n	ldp d8, d9, [sp, #96]\n"
    "	ldp d10, d11, [sp, #112]\n	ldp d12, d13, [sp, #128]\n"
    "	ldp d14, d15, [sp, #144]\n"
    "	ldp x29, x30, [sp], #160\n"
    "	ret\n"
    ".size sim_switch,.-sim_switch\n");
#else
#error "the simulation needs a context switch for this processor"
#endif

static void *scheduler;		/* its stack pointer while a process runs */

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
static void *scheduler_fake;
static const void *scheduler_stack;
static size_t scheduler_size;
#define BEFORE_SWITCH(save, stack, size)	\
	__sanitizer_start_switch_fiber(save, stack, size)
#define AFTER_SWITCH(fake, stack, size)		\
	__sanitizer_finish_switch_fiber(fake, stack, size)
#else
#define BEFORE_SWITCH(save, stack, size)	((void)0)
#define AFTER_SWITCH(fake, stack, size)		((void)0)
#endif

/* --- static variables ---------------------------------------------------- */

extern uint8_t sim_worker_begin[], sim_worker_end[];
extern uint8_t sim_supervisor_begin[], sim_supervisor_end[];

static struct {
	uint8_t		*at;
	size_t		 size;
	uint8_t		*pristine;
	struct proc	*loaded;
} statics[2];

/* Word by word and unseen by sanitizers, which guard what is between
 * variables. */
static void
copy_words(void *to, const void *from, size_t n)
{
#if defined(__x86_64__)
	size_t words = n / 8;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) ::
	    "memory");
#else
	memcpy(to, from, n);
#endif
}

static void
load_statics(struct proc *p)
{
	struct proc *old = statics[p->kind].loaded;

	if (old == p)
		return;
	if (old != NULL && old->life == PROC_LIVE)
		copy_words(old->statics, statics[p->kind].at,
		    statics[p->kind].size);
	copy_words(statics[p->kind].at, p->statics, statics[p->kind].size);
	statics[p->kind].loaded = p;
}

static void *
reserve(size_t n)
{
	void *m = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE |
	    MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert(m != MAP_FAILED);
	return (m);
}

static void
init_once(void)
{
	size_t i, most;

	if (statics[0].at != NULL)
		return;
	statics[PROC_WORKER].at = sim_worker_begin;
	statics[PROC_WORKER].size = (size_t)(sim_worker_end -
	    sim_worker_begin);
	statics[PROC_SUPERVISOR].at = sim_supervisor_begin;
	statics[PROC_SUPERVISOR].size = (size_t)(sim_supervisor_end -
	    sim_supervisor_begin);
	most = statics[0].size > statics[1].size ? statics[0].size :
	    statics[1].size;
	for (i = 0; i < 2; i++) {
		statics[i].pristine = reserve(statics[i].size + 8);
		copy_words(statics[i].pristine, statics[i].at,
		    statics[i].size);
	}
	for (i = 0; i < PROCS; i++) {
		procs[i].slot = (unsigned int)i;
		procs[i].stack = reserve(STACK);
		(void)mprotect(procs[i].stack, 4096, PROT_NONE);
		procs[i].heap = reserve(HEAP);
		procs[i].statics = reserve(most + 8);
	}
}

/* --- running ------------------------------------------------------------- */

static void cleanup(struct proc *);

static void
resume(struct proc *p)
{
	load_statics(p);
	p->ready = false;
	p->turn++;
	current = p;
	BEFORE_SWITCH(&scheduler_fake, p->stack, STACK);
	sim_switch(&scheduler, p->sp);
	AFTER_SWITCH(scheduler_fake, NULL, NULL);
	current = NULL;
	if (p->life == PROC_ZOMBIE)
		cleanup(p);
}

static void
run_event(void *arg, uint64_t turn)
{
	struct proc *p = arg;

	if (p->life != PROC_LIVE || p->turn != turn)
		return;
	if (p->stopped_until > now_ns)
		sched_at(p->stopped_until, run_event, p, turn);
	else
		resume(p);
}

void
proc_wake(struct proc *p, uint64_t delay)
{
	if (p->life != PROC_LIVE || p->ready || p == current)
		return;
	p->ready = true;
	sched_at(now_ns + delay, run_event, p, p->turn);
}

static void
to_scheduler(struct proc *p)
{
	int saved = errno;		/* each process has its own */

	BEFORE_SWITCH(p->life == PROC_LIVE ? &p->fake : NULL,
	    scheduler_stack, scheduler_size);
	sim_switch(&p->sp, scheduler);
	AFTER_SWITCH(p->fake, NULL, NULL);
	errno = saved;
}

void
proc_block(void)
{
	to_scheduler(current);
}

void
proc_yield(uint64_t delay)
{
	struct proc *p = current;

	p->ready = true;
	sched_at(now_ns + delay, run_event, p, p->turn);
	to_scheduler(p);
}

void
proc_wait(uint64_t ns)
{
	sched_at(now_ns + ns, run_event, current, current->turn);
	to_scheduler(current);
}

static void
begin(void)
{
#ifdef __SANITIZE_ADDRESS__
	AFTER_SWITCH(NULL, &scheduler_stack, &scheduler_size);
#endif
	proc_exit(W_EXITCODE(current->main(), 0));
}

struct proc *
proc_new(enum proc_kind kind, int (*entry)(void), int parent)
{
	struct proc *p = NULL;
	void **sp;
	size_t i;

	for (i = 0; i < PROCS && p == NULL; i++)
		if (procs[i].life == PROC_FREE)
			p = &procs[i];
	if (p == NULL)
		return (NULL);
	p->kind = kind;
	p->life = PROC_LIVE;
	p->pid = next_pid++;
	p->parent = parent;
	p->status = 0;
	p->number = 0;
	p->numbered = p->tool = p->pdeathsig = p->ready = false;
	p->phase = PHASE_OPENING;
	p->main = entry;
	p->stopped_until = 0;
	p->turn++;
	p->heap_used = 0;
	memset(p->heap_free, 0, sizeof(p->heap_free));
	p->loop = NULL;
	p->env = NULL;
	p->points = 0;
	p->mapped = -1;
	copy_words(p->statics, statics[kind].pristine, statics[kind].size);
	if (statics[kind].loaded == p)
		statics[kind].loaded = NULL;
	/* As if `begin` had been called from nowhere: the stack is aligned
	 * as after a call. */
	sp = (void **)(void *)(p->stack + STACK);
#if defined(__x86_64__)
	*--sp = NULL;
	*--sp = (void *)(uintptr_t)begin;
	for (i = 0; i < 6; i++)
		*--sp = NULL;
#else
	sp -= 20;
	memset(sp, 0, 160);
	sp[1] = (void *)(uintptr_t)begin;
#endif
	p->sp = sp;
	proc_wake(p, rng_range(&plan.sched, 50 * US, 400 * US));
	return (p);
}

struct proc *
proc_find(int pid)
{
	size_t i;

	for (i = 0; i < PROCS; i++)
		if (procs[i].life != PROC_FREE && procs[i].pid == pid)
			return (&procs[i]);
	return (NULL);
}

void
proc_free(struct proc *p)
{
	p->life = PROC_FREE;
	p->turn++;
}

static void
kill_event(void *arg, uint64_t pid)
{
	struct proc *p = arg;

	if (p->life == PROC_LIVE && p->pid == (int)pid)
		proc_kill(p, SIGKILL);
}

/* A signal ends a process at once, unless that waits for a device: then it
 * is there for a while, does nothing, and keeps its locks. */
static uint64_t
death_takes(struct proc *p)
{
	if (!plan.blind || !sometimes(2))
		return (rng_below(&plan.sched, 300 * US));
	p->stopped_until = now_ns + rng_below(&plan.sched, 3 * SEC);
	trace("process %d waits for a device", p->pid);
	return (p->stopped_until - now_ns);
}

/* Everything that the kernel does for a dead process. */
static void
cleanup(struct proc *p)
{
	struct proc *parent = proc_find(p->parent);
	size_t i;

	trace("dies: %s %d", WIFEXITED(p->status) ? "exit code" : "signal",
	    WIFEXITED(p->status) ? WEXITSTATUS(p->status) :
	    WTERMSIG(p->status));
	p->died_ns = now_ns;
	if (statics[p->kind].loaded == p)
		statics[p->kind].loaded = NULL;
	store_sim_death(p);
	fds_close(p);
	maps_close(p);
	loop_free(p);
	for (i = 0; i < PROCS; i++) {
		struct proc *c = &procs[i];

		if (c->life == PROC_FREE || c->parent != p->pid)
			continue;
		c->parent = 1;
		if (c->life == PROC_ZOMBIE)
			proc_free(c);
		else if (c->pdeathsig)
			sched_at(now_ns + death_takes(c), kill_event, c,
			    (uint64_t)c->pid);
	}
	plan_death(p);
	if (parent != NULL && parent->life == PROC_LIVE)
		loop_child(parent, p->pid, p->status);
	else
		proc_free(p);
}

void
proc_exit(int status)
{
	struct proc *p = current;

	p->status = status;
	p->life = PROC_ZOMBIE;
	to_scheduler(p);
	__builtin_unreachable();
}

void
proc_kill(struct proc *p, int sig)
{
	struct proc *was = current;

	if (p->life != PROC_LIVE)
		return;
	if (p == current)
		proc_exit(W_EXITCODE(0, sig));
	p->status = W_EXITCODE(0, sig);
	p->life = PROC_ZOMBIE;
	current = NULL;
	cleanup(p);
	current = was;
}

void
proc_call(struct proc *p, void (*f)(void *), void *arg)
{
	struct proc *was = current;

	load_statics(p);
	current = p;
	f(arg);
	current = was;
	if (was != NULL)
		load_statics(was);
}

void
sched_reset(void)
{
	size_t i;

	init_once();
	for (i = 0; i < PROCS; i++) {
		memset(procs[i].fd, 0, sizeof(procs[i].fd));
		memset(procs[i].maps, 0, sizeof(procs[i].maps));
		loop_free(&procs[i]);
		procs[i].life = PROC_FREE;
		procs[i].turn = 0;
		procs[i].died_ns = 0;
	}
	statics[0].loaded = statics[1].loaded = NULL;
	nheap = 0;
	order = 0;
	now_ns = 1000 * SEC;
	next_pid = FIRST_PID;
	current = NULL;
	failed = false;
	memset(&killer, 0, sizeof(killer));
}

/* --- points -------------------------------------------------------------- */

static bool
is_victim(const struct proc *p, unsigned int id)
{
	if (!killer.armed || p->kind != killer.kind || p->tool ||
	    (killer.phase != -1 && killer.phase != (int)p->phase))
		return (false);
	if (p->kind == PROC_WORKER && killer.number != -1 &&
	    killer.number != (int)p->number)
		return (false);
	if (killer.one_in == EXACTLY)
		return (killer.salt == id);
	return (killer.one_in == 0 || plan_mix(killer.salt, id * PHASES +
	    (unsigned int)p->phase) % killer.one_in == 0);
}

/* The programs' own points come in pairs, before and after. */
void
fault_point(enum fault_point at)
{
	point(POINT_OWN + (unsigned int)at / 2, at % 2);
}

/* As point(), for what a thread of p does: it is killed at once. */
bool
point_of(struct proc *p, unsigned int kind, bool after)
{
	unsigned int id = kind * 2 + after;

	plan_passed(p, id);
	if (!is_victim(p, id) || killer.countdown-- != 0)
		return (false);
	trace("KILLED %s %s of process %d", after ? "after" : "before",
	    point_names[kind], p->pid);
	plan_killed(p, id);
	proc_kill(p, SIGKILL);
	return (true);
}

void
point(unsigned int kind, bool after)
{
	struct proc *p = current;
	unsigned int id = kind * 2 + after;
	uint64_t r;

	if (p == NULL)
		return;
	p->points++;
	r = rng_next(&plan.sched);
	now_ns += 200 + (r & 1023);
	digest(now_ns ^ (uint64_t)id << 56 ^ (uint64_t)p->slot << 48);
	plan_passed(p, id);
	if (is_victim(p, id) && killer.countdown-- == 0) {
		trace("KILLED %s %s", after ? "after" : "before",
		    point_names[kind]);
		plan_killed(p, id);
		proc_kill(p, SIGKILL);
	}
	if (plan.preempt != 0 && (r >> 32) % plan.preempt == 0)
		proc_yield((r >> 20 & 15) == 0 ? (r >> 10 & 0xff) * 40 * US :
		    (r >> 10 & 63) * US);
}

/* --- memory of a process ------------------------------------------------- */

struct block {
	size_t	class;
	void	*next;			/* free list, or padding */
};

/* Powers of two from 32 bytes on; given back whole at death. */
void *
sim_malloc(size_t n)
{
	struct proc *p = current;
	struct block *b;
	size_t class = 5;

	assert(p != NULL);
	n += sizeof(struct block);
	while (((size_t)1 << class) < n)
		class++;
	if ((b = p->heap_free[class]) != NULL)
		p->heap_free[class] = b->next;
	else {
		assert(p->heap_used + ((size_t)1 << class) <= HEAP);
		b = (struct block *)(void *)(p->heap + p->heap_used);
		p->heap_used += (size_t)1 << class;
		b->class = class;
	}
	return (b + 1);
}

void *
sim_calloc(size_t n, size_t size)
{
	void *m = sim_malloc(n * size);

	memset(m, 0, n * size);
	return (m);
}

void
sim_free(void *m)
{
	struct block *b = (struct block *)m - 1;

	if (m == NULL)
		return;
	assert(b->class >= 5 && b->class < 28 && current != NULL);
	b->next = current->heap_free[b->class];
	current->heap_free[b->class] = b;
}

void *
sim_realloc(void *m, size_t n)
{
	struct block *b = (struct block *)m - 1;
	size_t have;
	void *to;

	if (m == NULL)
		return (sim_malloc(n));
	have = ((size_t)1 << b->class) - sizeof(*b);
	if (n <= have)
		return (m);
	to = sim_malloc(n);
	memcpy(to, m, have);
	sim_free(m);
	return (to);
}
