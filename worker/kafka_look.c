/* See kafka_look.h. */
#include <errno.h>
#include <inttypes.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/kafka.h"
#include "worker/kafka_look.h"

#define WAIT_MS		5000		/* for one answer of a broker */

/* --- the start ----------------------------------------------------------- */

struct start {
	enum { AT_EARLIEST, AT_LATEST, AT_OFFSET, BEFORE_END, AT_TIME } how;
	int64_t	 n;
};

static bool
parse_number(const char *text, int64_t *n)
{
	char *end;

	errno = 0;
	*n = strtoll(text, &end, 10);
	return (text[0] >= '0' && text[0] <= '9' && *end == '\0' &&
	    errno == 0);
}

static bool
parse_start(const char *text, struct start *s)
{
	s->n = 0;
	if (strcmp(text, "earliest") == 0)
		s->how = AT_EARLIEST;
	else if (strcmp(text, "latest") == 0)
		s->how = AT_LATEST;
	else if (strncmp(text, "time:", 5) == 0) {
		s->how = AT_TIME;
		return (parse_number(text + 5, &s->n));
	} else if (text[0] == '-') {
		s->how = BEFORE_END;
		return (parse_number(text + 1, &s->n));
	} else {
		s->how = AT_OFFSET;
		return (parse_number(text, &s->n));
	}
	return (true);
}

bool
kafka_start_is_good(const char *text)
{
	struct start s;

	return (parse_start(text, &s));
}

/* --- errors -------------------------------------------------------------- */

static int
fail(struct look *l, rd_kafka_resp_err_t why, const char *topic)
{
	char *doing = xasprintf("looking at topic \"%s\"", topic);

	l->failed = true;
	l->permanent = kafka_is_permanent(why);
	l->unsure = why == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
	    why == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
	    why == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
	(void)kafka_err(&l->err, ERR_CONFIG, l->k, why, doing);
	free(doing);
	return (-1);
}

/* --- partitions ---------------------------------------------------------- */

/* The offset at a time in ms, or at RD_KAFKA_OFFSET_BEGINNING or _END.
 * rd_kafka_query_watermark_offsets() would not do: it asks a leader that is
 * dead again and again, for as long as that is away and another one leads. */
static int
ask_offset(struct look *l, const char *topic, int32_t partition, int64_t at,
    int64_t *offset)
{
	rd_kafka_topic_partition_list_t *list =
	    rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t why;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset =
	    at;
	why = rd_kafka_offsets_for_times(l->k->rk, list, WAIT_MS);
	if (why == RD_KAFKA_RESP_ERR_NO_ERROR)
		why = list->elems[0].err;
	*offset = list->elems[0].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return (why == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : fail(l, why, topic));
}

/* Behind the last record before that time. */
static int
find_time(struct look *l, const char *topic, int32_t partition, int64_t ms,
    int64_t high, int64_t *start)
{
	if (ask_offset(l, topic, partition, ms, start) == -1)
		return (-1);
	if (*start < 0)			/* nothing is so young */
		*start = high;
	return (0);
}

static int
find_start(struct look *l, struct look_found *f)
{
	struct start s;

	f->start = f->low;
	(void)parse_start(l->src->start, &s);
	if (l->begun || s.how == AT_EARLIEST)
		return (0);
	if (s.how == AT_TIME)
		return (find_time(l, f->topic, f->partition, s.n, f->high,
		    &f->start));
	if (s.how == BEFORE_END)
		f->start = f->high - s.n > f->low ? f->high - s.n : f->low;
	else
		f->start = s.how == AT_LATEST ? f->high : s.n;
	if (f->start >= f->low && f->start <= f->high)
		return (0);
	l->failed = l->permanent = true;
	return (err_set(&l->err, ERR_CONFIG, "source \"%s\": partition %"
	    PRId32 " of topic \"%s\" has the offsets from %" PRId64 " to %"
	    PRId64 ", so it cannot be read from %" PRId64, l->src->name,
	    f->partition, f->topic, f->low, f->high, f->start));
}

static int
look_at(struct look *l, const char *topic, int32_t partition)
{
	struct look_found *f;
	int64_t low, high;

	if (offsets_owner(partition, l->workers) != l->worker ||
	    offsets_find(&l->known, slice_of(topic, strlen(topic)),
	    partition) != NULL)
		return (0);
	if (ask_offset(l, topic, partition, RD_KAFKA_OFFSET_BEGINNING,
	    &low) == -1 || ask_offset(l, topic, partition,
	    RD_KAFKA_OFFSET_END, &high) == -1)
		return (-1);
	l->found = xreallocarray(l->found, l->nfound + 1, sizeof(*l->found));
	f = &l->found[l->nfound++];
	f->topic = xstrdup(topic);
	f->partition = partition;
	f->low = low;
	f->high = high;
	return (find_start(l, f));
}

/* --- topics -------------------------------------------------------------- */

static int
look_at_topic(struct look *l, const struct rd_kafka_metadata_topic *t)
{
	int i;

	if (t->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return (fail(l, t->err, t->topic));
	for (i = 0; i < t->partition_cnt; i++)
		if (look_at(l, t->topic, t->partitions[i].id) == -1)
			return (-1);
	return (0);
}

/* A topic by its name. */
static int
look_for(struct look *l, const char *name)
{
	const struct rd_kafka_metadata *md = NULL;
	rd_kafka_resp_err_t why;
	rd_kafka_topic_t *t = rd_kafka_topic_new(l->k->rk, name, NULL);
	int r;

	if (t == NULL)
		return (fail(l, rd_kafka_last_error(), name));
	why = rd_kafka_metadata(l->k->rk, 0, t, &md, WAIT_MS);
	rd_kafka_topic_destroy(t);
	if (why != RD_KAFKA_RESP_ERR_NO_ERROR)
		return (fail(l, why, name));
	r = md->topic_cnt == 1 ? look_at_topic(l, &md->topics[0]) :
	    fail(l, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, name);
	rd_kafka_metadata_destroy(md);
	return (r);
}

/* All topics whose names match. */
static int
look_through(struct look *l, const char *pattern)
{
	const struct rd_kafka_metadata *md = NULL;
	rd_kafka_resp_err_t why;
	regex_t re;
	int i, r = 0;

	if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0) {
		l->failed = l->permanent = true;
		return (err_set(&l->err, ERR_CONFIG, "source \"%s\": %s is no "
		    "regular expression", l->src->name, pattern));
	}
	why = rd_kafka_metadata(l->k->rk, 1, NULL, &md, WAIT_MS);
	if (why != RD_KAFKA_RESP_ERR_NO_ERROR)
		r = fail(l, why, pattern);
	for (i = 0; r == 0 && i < md->topic_cnt; i++)
		if (regexec(&re, md->topics[i].topic, 0, NULL, 0) == 0)
			r = look_at_topic(l, &md->topics[i]);
	if (md != NULL)
		rd_kafka_metadata_destroy(md);
	regfree(&re);
	return (r);
}

void
kafka_look(struct look *l)
{
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < l->src->ntopics; i++)
		r = l->src->topics[i][0] == '^' ?
		    look_through(l, l->src->topics[i]) :
		    look_for(l, l->src->topics[i]);
}

void
kafka_look_free(struct look *l)
{
	size_t i;

	if (l == NULL)
		return;
	for (i = 0; i < l->nfound; i++)
		free(l->found[i].topic);
	free(l->found);
	offsets_fini(&l->known);
	free(l);
}
