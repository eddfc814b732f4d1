/*
 * What programs that start machida3 expect of it: the lines that scripts look
 * for, and its exit codes.  Nothing here changes what is done.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define CODE_FAILED	1

bool
machida_is(const struct supervisor *s)
{
	return (s->conf.machida[0] != '\0');
}

char *
machida_worker(const struct supervisor *s, uint32_t worker)
{
	if (worker > 0)
		return (xasprintf("worker%u", worker));
	return (xstrdup(machida_is(s) ? s->conf.machida : "initializer"));
}

/* Outputs of the application are not mixed with our lines. */
static int
descriptor(const struct supervisor *s)
{
	size_t i;

	for (i = 0; i < s->topo.nsinks; i++)
		if (s->topo.sinks[i].kind == SINK_STDOUT)
			return (STDERR_FILENO);
	return (STDOUT_FILENO);
}

static void __attribute__((format(printf, 2, 0)))
say(int fd, const char *fmt, va_list ap)
{
	char *text;
	int n;

	if ((n = vasprintf(&text, fmt, ap)) == -1)
		return;
	text[n] = '\n';			/* in the NUL's place */
	(void)!write(fd, text, (size_t)n + 1);
	free(text);
}

void
machida_say(const struct supervisor *s, const char *fmt, ...)
{
	va_list ap;

	if (!machida_is(s))
		return;
	va_start(ap, fmt);
	say(descriptor(s), fmt, ap);
	va_end(ap);
}

void
machida_listening(const struct supervisor *s)
{
	size_t i;

	for (i = 0; i < s->topo.nsources; i++)
		if (source_listens(&s->topo.sources[i]))
			machida_say(s, "%s source is listening",
			    s->topo.sources[i].name);
}

/* Scripts were told only when there was somebody to take outputs. */
static bool
has_sinks(const struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->topo.nsinks; i++)
		if (sink_connects(&s->topo.sinks[i]) &&
		    hold_count_sinks(s, i) < s->n)
			return (false);
	return (true);
}

void
machida_running(struct supervisor *s)
{
	if (!machida_is(s) || s->announced || !s->ran || !has_sinks(s))
		return;
	s->announced = true;
	if (s->recovered)
		machida_say(s, "|~~ - Recovery COMPLETE - ~~|\n"
		    "~~~Resuming message processing.~~~");
	machida_say(s, "|~~ INIT PHASE III: Application is ready to work! "
	    "~~|\nApplication has successfully initialized.");
}

static bool
exited(const struct supervisor *s)
{
	return (s->why != NULL && strncmp(s->why, ERR_EXITED,
	    sizeof(ERR_EXITED) - 1) == 0);
}

/* Only what fails at work should never happen; a start has its own text. */
void
machida_failed(const struct supervisor *s)
{
	const char *why = s->why == NULL ? "" : s->why;

	if (!machida_is(s))
		return;
	if (strstr(why, ERR_UNSAVED) != NULL)
		(void)fprintf(stderr, "Error: Serialization failed\n");
	else if (strstr(why, ERR_UNREAD) != NULL)
		(void)fprintf(stderr, "Error: Deserialization failed\n");
	if (s->ran)
		(void)fprintf(stderr, "This should never happen: failure in "
		    "%s at line %d\n", __FILE__, __LINE__);
}

int
machida_code(const struct supervisor *s)
{
	if (!machida_is(s) || s->exit_code == 0)
		return (s->exit_code);
	if (exited(s))
		return (atoi(s->why + sizeof(ERR_EXITED) - 1) & 0xff);
	return (CODE_FAILED);
}
