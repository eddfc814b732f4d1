/*
 * The pipeline as data: what Python's application_setup() built, compiled to
 * stages with numbers.  Made by the Python host (describe), read by the
 * supervisor (listeners, sinks, identity of the state) and every worker.
 *
 * Every stage has one successor, so the graph is a tree whose leaves are the
 * sources and whose root is the one STAGE_SINKS stage.  An exchange is a
 * place where a message may go to another worker; exchanges are numbered so
 * that along every path later ones have higher numbers.
 *
 * Wire form, MessagePack:
 * ["wallaroo-topology", 1, application, [source...], [stage...], [sink...]],
 * and, if the application has one: its version
 * source: [name, kind, next, fn, framing, header_length, header_format,
 *          max_size, host, port, path, key, parallelism], and for a
 *         connector: cookie, max_credits, refill_credits; for Kafka: brokers,
 *         settings, [topic...], group, start, whole
 * stage:  [name, kind, next, fn, exchange, multi, policy, version], and for
 *         range_windows and count_windows: timeout_ns, patience_ns, and for
 *         one whose late messages have a sink: its number; for
 *         event_time: lateness_ns, idle_ns; for a state that has a function
 *         for the end: its number; for timed_state: whether by event time
 * sink:   [name, kind, fn, host, port, path, exchange, policy], and for a
 *         connector: cookie; for Kafka: brokers, settings, topic,
 *         exactly_once, commit_ms
 * kinds, framing and policy are the str names of the enums' comments; next,
 * fn and exchange are ints, -1 = none; port and numbers are ints; multi is
 * bool; key is bin; the rest str.  settings of Kafka are [[name, from, text]
 * ...], whole and exactly_once are bool.
 */
#ifndef COMMON_TOPO_H
#define COMMON_TOPO_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum topo_source_kind {
	SOURCE_TCP,		/* "tcp": listens on host:port */
	SOURCE_GEN,		/* "gen": host function yields values */
	SOURCE_FILE,		/* "file": path */
	SOURCE_STDIN,		/* "stdin" */
	SOURCE_CONNECTOR,	/* "connector": listens; programs feed it by
				   the connector protocol */
	SOURCE_KAFKA		/* "kafka": topics; every worker reads some of
				   their partitions */
};
enum topo_framing {
	FRAMING_HEADER,		/* "header": header_length bytes, whose value
				   is header_format's, then the payload */
	FRAMING_CUSTOM,		/* "custom": as header; the length comes from
				   host->frame_len */
	FRAMING_LINES,		/* "lines": up to \n; \n and a \r before it
				   are not in the payload */
	FRAMING_NONE,		/* "none": generators */
	FRAMING_CONNECTOR,	/* "connector": frames of the protocol, with
				   4 bytes of length */
	FRAMING_KAFKA		/* "kafka": offsets.h, 4 bytes of length */
};
enum topo_stage_kind {
	STAGE_STEP,		/* "step": stateless function */
	STAGE_STATE,		/* "state": function with state per key */
	STAGE_KEY_BY,		/* "key_by": fn gives the new current key */
	STAGE_COLLECT,		/* "collect": constant key, in name's place */
	STAGE_EXCHANGE,		/* "exchange": to the owner of current key */
	STAGE_SINKS,		/* "sinks": to every sink */
	STAGE_RANGE,		/* "range_windows": windows of time per key */
	STAGE_COUNT,		/* "count_windows": of messages per key */
	STAGE_EVENT_TIME,	/* "event_time": fn gives the message's time */
	STAGE_TIMED		/* "timed_state": with state and timers per key;
				   to the worker they are like windows */
};
enum topo_sink_kind {
	SINK_TCP,		/* "tcp": one connection per worker */
	SINK_FILE,		/* "file": one writer per application */
	SINK_STDOUT,		/* "stdout": one writer per application */
	SINK_CONNECTOR,		/* "connector": one connection per worker, by
				   the connector protocol */
	SINK_KAFKA,		/* "kafka": a topic; each worker is a producer
				   of its own */
	SINK_DEAD		/* "dead-letter": exactly one, the last sink; a
				   file whose path is the configuration's;
				   the sinks stage does not send to it */
};
enum topo_policy {
	POLICY_DEFAULT,		/* "default": the application's on-error */
	POLICY_FAIL, POLICY_SKIP, POLICY_DEAD_LETTER
				/* "fail", "skip", "dead-letter" */
};

/* What librdkafka is told.  Secrets are not in a topology: it says where they
 * are. */
enum topo_setting_from {
	SETTING_VALUE,		/* "value": text is it */
	SETTING_FILE,		/* "file": of this path */
	SETTING_ENV		/* "env": variable of this name */
};
struct topo_setting {
	char			*name;
	enum topo_setting_from	 from;
	char			*text;
};
struct topo_kafka {
	char			*brokers;	/* "HOST:PORT,..." */
	struct topo_setting	*settings;
	size_t			 nsettings;
};

struct topo_source {
	char			*name;
	enum topo_source_kind	 kind;
	int			 next;		/* first stage */
	int			 fn;		/* decoder or generator, -1 */
	enum topo_framing	 framing;
	uint32_t		 header_length;	/* 1..8 */
	bool			 header_big;	/* from header_format: ">I", */
	bool			 header_signed;	/* "<H", "!Q", "B", ... */
	uint64_t		 max_size;	/* largest payload */
	char			*host;
	uint32_t		 port;
	char			*path;
	uint8_t			*key;		/* initial current key */
	size_t			 key_len;
	uint32_t		 parallelism;	/* most connections a worker */
	int			 event_stage;	/* on its way, or -1 */
	/* CONNECTOR: */
	char			*cookie;	/* what its HELLO must have */
	uint32_t		 max_credits;	/* frames under way */
	uint32_t		 refill_credits; /* at these come new ones */
	/* KAFKA: */
	struct topo_kafka	 kafka;
	char			**topics;	/* names, ^ begins a pattern */
	size_t			 ntopics;
	char			*group;		/* is told how far we are */
	char			*start;		/* of new partitions:
						   "earliest", "latest", an
						   offset, "-N" from the end,
						   "time:MS" */
	bool			 whole;		/* the decoder gets all of a
						   record, not the value */
};
struct topo_stage {
	char			*name;
	enum topo_stage_kind	 kind;
	int			 next;
	int			 fn;
	int			 exchange;	/* KEY_BY, COLLECT: -1 = none */
	bool			 multi;
	enum topo_policy	 policy;
	uint32_t		 version;	/* of the state */
	int			 on_end;	/* STATE: function for keys at
						   the end, plus 1; 0: none */
	/* RANGE, COUNT: */
	uint64_t		 timeout_ns;	/* between timeouts, 0 = none */
	uint64_t		 patience_ns;	/* with who has fallen silent */
	/* EVENT_TIME: */
	uint64_t		 lateness_ns;	/* how far times may go back */
	uint64_t		 idle_ns;	/* 0 = all wait for it */
	bool			 by_event;	/* RANGE, TIMED: event times */
	int			 late;		/* RANGE: the sink that late
						   messages go to, plus 1; 0:
						   they are dropped */
};
struct topo_sink {
	char			*name;		/* unique */
	enum topo_sink_kind	 kind;
	int			 fn;		/* encoder */
	char			*host;
	uint32_t		 port;
	char			*path;
	int			 exchange;	/* to the one writer, or -1 */
	enum topo_policy	 policy;
	char			*cookie;	/* CONNECTOR: for its HELLO */
	/* KAFKA: */
	struct topo_kafka	 kafka;
	char			*topic;
	bool			 exactly_once;	/* by transactions */
	uint32_t		 commit_ms;	/* their cadence */
};
struct topo {
	char			*application;
	char			*version;	/* "": it has none */
	struct topo_source	*sources;
	size_t			 nsources;
	struct topo_stage	*stages;
	size_t			 nstages;
	struct topo_sink	*sinks;
	size_t			 nsinks;
	uint32_t		 nexchanges;
	bool			 event_time;	/* messages have times of their
						   own */
	int			*exchange_stage; /* [nexchanges]: the stage that
						    a received record enters
						    (after the hop), or -1 */
	int			*exchange_sink;	 /* or the sink, -1 */
};

/* Does somebody connect to it? */
static inline bool
source_listens(const struct topo_source *s)
{
	return (s->kind == SOURCE_TCP || s->kind == SOURCE_CONNECTOR);
}
/* Has each worker a connection of its own to it? */
static inline bool
sink_connects(const struct topo_sink *s)
{
	return (s->kind == SINK_TCP || s->kind == SINK_CONNECTOR);
}
/* Does every worker write to it, not one? */
static inline bool
sink_is_everywhere(const struct topo_sink *s)
{
	return (sink_connects(s) || s->kind == SINK_KAFKA);
}
static inline bool
stage_has_windows(const struct topo_stage *s)
{
	return (s->kind == STAGE_RANGE || s->kind == STAGE_COUNT);
}
/* Is what happens next to a key kept in front of its saved bytes? */
static inline bool
stage_has_heads(const struct topo_stage *s)
{
	return (stage_has_windows(s) || s->kind == STAGE_TIMED);
}
/* Are there keys that something is to happen to in time? */
static inline bool
stage_has_dues(const struct topo_stage *s)
{
	return (stage_has_heads(s) || s->on_end != 0);
}
/* Has it a state of the user's own for each key? */
static inline bool
stage_is_state(const struct topo_stage *s)
{
	return (s->kind == STAGE_STATE || s->kind == STAGE_TIMED);
}
/* Is there something per key that a checkpoint holds? */
static inline bool
stage_has_state(const struct topo_stage *s)
{
	return (stage_is_state(s) || stage_has_windows(s));
}

/* Parse and check everything (indices, order of exchanges, ranges, unique
 * names of stages with state and sinks). */
int	topo_parse(struct topo *, struct slice, struct err *);
void	topo_fini(struct topo *);
/* One line per source, stage and sink, for people. */
void	topo_print(const struct topo *, struct buf *);

#endif
