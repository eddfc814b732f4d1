/*
 * What a seed was given and what it gave, one line of JSON for each thing, for
 * the reference in another language (reference.py).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

static FILE *out;

static void
put_hex(const uint8_t *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		(void)fprintf(out, "%02x", p[i]);
}

static void
dump_input(uint32_t from, uint32_t seq)
{
	const struct input *in = &plan.input[seq];
	uint8_t frame[FRAME_MAX];

	(void)fprintf(out, "{\"input\": %u, \"from\": %u, \"key1\": %u, "
	    "\"key2\": %u, \"amount\": %u, \"dropped\": %d, \"fan\": %u, "
	    "\"frame\": \"", seq, from, in->key1, in->key2, in->amount,
	    in->dropped, in->fan);
	put_hex(frame, plan_frame(seq, frame));
	(void)fprintf(out, "\"}\n");
}

void
dump_open(const char *path)
{
	uint32_t from, i;

	if ((out = fopen(path, "w")) == NULL) {
		(void)fprintf(stderr, "cannot open %s: %s\n", path,
		    strerror(errno));
		exit(2);
	}
	(void)fprintf(out, "{\"seed\": %" PRIu64 ", \"single\": %d, \"clients\""
	    ": %u, \"tcp_sink\": %d, \"file_sink\": %d, \"nonces\": %d, "
	    "\"timed\": %d}\n",
	    plan.seed, plan.single, CLIENTS, plan.tcp_sink, plan.file_sink,
	    plan.after, plan.timed != UNTIMED);
	for (from = 0; from < FROMS; from++)
		for (i = 0; i < plan.nfrom[from]; i++)
			dump_input(from, plan.from[from][i]);
}

void
dump_output(bool file, const uint8_t *record, size_t n, bool again)
{
	if (out == NULL)
		return;
	(void)fprintf(out, "{\"sink\": \"%s\", \"again\": %d, \"record\": \"",
	    file ? "file" : "tcp", again);
	put_hex(record, n);
	(void)fprintf(out, "\"}\n");
}

void
dump_file_again(void)
{
	if (out != NULL)
		(void)fprintf(out, "{\"restart\": \"file\"}\n");
}

void
dump_state(const char *step, const char *key, const struct state *st)
{
	if (out != NULL)
		(void)fprintf(out, "{\"step\": \"%s\", \"key\": \"%s\", "
		    "\"version\": %" PRIu64 ", \"digest\": %" PRIu64
		    ", \"balance\": %" PRId64 "}\n", step, key, st->version,
		    st->digest, st->balance);
}

/* What follows is no part of it; how: its last line. */
void
dump_close(const char *how)
{
	if (out == NULL)
		return;
	if (fprintf(out, "{\"end\": \"%s\"}\n", how) < 0 || fclose(out) != 0)
		(void)fprintf(stderr, "cannot write what a seed gave: %s\n",
		    strerror(errno));
	out = NULL;
}
