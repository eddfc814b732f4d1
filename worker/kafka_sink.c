/*
 * Sinks in Kafka.  Each worker is one producer, of a stable transactional id,
 * run by a thread of its own, because librdkafka's calls wait.  The loop gives
 * it records of the outbox and takes back one number: how far the topic has
 * come, as a payload offset of the outbox.
 *
 *	outbox ─ loop ─ `in`, bounded ─► thread ─► begin, produce, wait for
 *	   ▲                                │      reports, offsets, commit
 *	   └────── position, committed ◄────┘      (every commit_ms)
 *
 * That number is committed in the same transaction as the records, as the
 * offset of a group that nobody is a member of, so the topic and it never
 * disagree.  The group has the transactional id's name; its partition is the
 * topic's partition 0, since brokers accept offsets only of partitions that
 * exist.  At a start, and after anything that leaves a commit in doubt, a new
 * producer is made: init_transactions ends what the one before it had begun,
 * then the position is read back, and the outbox goes on right there.
 *
 * With the offset goes its owner's name: a random id that lies in the
 * outbox's file, and the supervisor's epoch.  It is committed once before any
 * record.  Who finds another owner's there knows that its time is over.
 *
 * at-least-once: no transactions and no group; what was delivered leaves the
 * outbox, the rest is sent again after a death.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/kafka.h"
#include "worker/kafka_sink.h"
#include "worker/worker.h"

#define QUEUE_BYTES	(4 << 20)	/* of records, loop to thread */
#define CALL_MS		5000		/* that one call waits */
#define PAUSE_MS	500		/* until a new producer is made */
#define KEEP_NS		600000000000ULL	/* an idle position is committed
					   again: groups expire */
#define SAY_NS		2000000000ULL	/* between lines of trouble */
#define FINISH_NS	10000000000ULL
#define OWNER		64		/* bytes of an owner's name */

struct kafka_sink {
	struct worker	*w;
	struct sink	*s;
	const struct topo_sink *t;
	char		*id;		/* transactional, and the group's */
	ev_async	 said;
	pthread_t	 thread;

	pthread_mutex_t	 lock;
	pthread_cond_t	 wake;		/* for the thread */
	pthread_cond_t	 over;		/* it has ended */
	/* Under the lock: */
	struct buf	 in;		/* u64 payload offset of its end, u32
					   length, bytes; of each record */
	bool		 ready;		/* it takes records */
	bool		 rewind;	/* go back to `position` */
	bool		 full;		/* the loop waits for room */
	bool		 stop;
	bool		 ended;
	bool		 settled;	/* nothing is in doubt */
	uint64_t	 position;	/* the topic has everything before */
	int		 code;		/* exit code, and why; 0: none */
	struct err	 why;
	struct err	 wait;		/* why nothing leaves; "": it does */
	bool		 news;		/* another one than was told */

	/* The thread's: */
	struct kafka	 out;		/* the producer */
	struct kafka	 group;		/* a consumer that reads positions */
	struct buf	 batch;
	size_t		 at;		/* of the batch that is produced */
	uint64_t	 first, last;	/* where the position can be */
	uint64_t	 end;		/* of the last record produced */
	uint64_t	 bytes;		/* of this transaction */
	uint64_t	 began_ns;	/* 0: no transaction */
	uint64_t	 kept_ns;	/* position was committed last */
	uint64_t	 said_ns;	/* that something does not go */
	uint64_t	 waiting;	/* reports of delivery */
	rd_kafka_resp_err_t failed;	/* one of these said */
	char		 owner[OWNER];
	uint64_t	 owner_id;
	bool		 virgin;	/* never claimed the position */
	bool		 restored;	/* the outbox may be behind it */
};

/* What the thread does next. */
enum step { GO_ON, ANEW, QUIT };

/* --- the thread: saying -------------------------------------------------- */

static void
wake_loop(struct kafka_sink *k)
{
	ev_async_send(k->w->loop, &k->said);
}

/* The process is to end with this. */
static enum step
give_up(struct kafka_sink *k, int code, const struct err *why)
{
	pthread_mutex_lock(&k->lock);
	k->code = code;
	k->why = *why;
	pthread_mutex_unlock(&k->lock);
	wake_loop(k);
	return (QUIT);
}

static bool
is_stopping(struct kafka_sink *k)
{
	bool stop;

	pthread_mutex_lock(&k->lock);
	stop = k->stop;
	pthread_mutex_unlock(&k->lock);
	return (stop);
}

/* The conditions go by the monotonic clock. */
static struct timespec
at_ns(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000),
	    (long)(ns % 1000000000) };

	return (ts);
}

static void
pause_ms(struct kafka_sink *k, uint32_t ms)
{
	struct timespec until = at_ns(clock_mono_ns() + ms * 1000000ULL);

	pthread_mutex_lock(&k->lock);
	if (!k->stop)
		(void)pthread_cond_timedwait(&k->wake, &k->lock, &until);
	pthread_mutex_unlock(&k->lock);
}

/* For status: why nothing leaves. */
static void
set_wait(struct kafka_sink *k, const char *why)
{
	bool news;

	pthread_mutex_lock(&k->lock);
	news = strcmp(k->wait.text, why) != 0;
	if (news)
		(void)snprintf(k->wait.text, sizeof(k->wait.text), "%s", why);
	k->news |= news;
	pthread_mutex_unlock(&k->lock);
	if (news)
		wake_loop(k);
}

static void
complain(struct kafka_sink *k, rd_kafka_resp_err_t code, const char *doing)
{
	uint64_t now = clock_mono_ns();
	struct err err;

	(void)kafka_err(&err, ERR_SYSTEM, &k->out, code, doing);
	set_wait(k, err.text);
	if (k->said_ns != 0 && now - k->said_ns < SAY_NS)
		return;
	k->said_ns = now;
	log_warn("outputs wait, trying again: %s", err.text);
}

/* Of a call: may it be made again, must there be a new producer, or has it
 * no sense at all? */
static enum step
judge(struct kafka_sink *k, rd_kafka_error_t *error, const char *doing)
{
	rd_kafka_resp_err_t code = rd_kafka_error_code(error);
	bool again = rd_kafka_error_is_retriable(error);
	struct err err;

	rd_kafka_error_destroy(error);
	if (again) {
		complain(k, code, doing);
		return (is_stopping(k) ? ANEW : GO_ON);
	}
	if (!kafka_is_permanent(code) || code == RD_KAFKA_RESP_ERR__FATAL ||
	    code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
		complain(k, code, doing);
		return (ANEW);
	}
	(void)kafka_err(&err, ERR_CONFIG, &k->out, code, doing);
	return (give_up(k, EXIT_PERMANENT, &err));
}

/* --- the thread: records ------------------------------------------------- */

/* Called by whoever polls the producer: the thread. */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg)
{
	struct kafka *out = arg;
	struct kafka_sink *k = out->arg;

	(void)rk;
	k->waiting--;
	if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
	    k->failed == RD_KAFKA_RESP_ERR_NO_ERROR)
		k->failed = m->err;
}

/* A record that no broker will ever take. */
static bool
is_hopeless(rd_kafka_resp_err_t code)
{
	switch (code) {
	case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
	case RD_KAFKA_RESP_ERR_INVALID_MSG:
	case RD_KAFKA_RESP_ERR_INVALID_RECORD:
	case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
	case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
	case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		return (true);
	default:
		return (false);
	}
}

static enum step
refuse_record(struct kafka_sink *k, rd_kafka_resp_err_t code)
{
	struct err err;

	if (!is_hopeless(code)) {
		complain(k, code, "produce");
		return (ANEW);
	}
	(void)err_set(&err, ERR_USER, "sink \"%s\": the topic %s does not "
	    "take a record: %s: correct the encoder or the topic's settings "
	    "error=%s", k->t->name, k->t->topic, rd_kafka_err2str(code),
	    rd_kafka_err2name(code));
	return (give_up(k, EXIT_PERMANENT, &err));
}

static enum step
produce_one(struct kafka_sink *k, uint8_t *p, uint32_t len)
{
	size_t key_len, value_len;
	rd_kafka_resp_err_t code;
	const uint8_t *key;
	int32_t head[3];
	uint8_t *value;
	struct err err;

	memcpy(head, p, sizeof(head));
	key_len = head[1] < 0 ? 0 : (size_t)head[1];
	value_len = head[2] < 0 ? 0 : (size_t)head[2];
	key = head[1] < 0 ? NULL : p + KAFKA_RECORD_HEADER;
	value = head[2] < 0 ? NULL : p + KAFKA_RECORD_HEADER + key_len;
	if (len != KAFKA_RECORD_HEADER + key_len + value_len) {
		(void)err_set(&err, ERR_CORRUPT, "sink \"%s\": a record in "
		    "the outbox cannot be read", k->t->name);
		return (give_up(k, EXIT_PERMANENT, &err));
	}
	FAULT_POINT(kafka_produce_before);
	while ((code = rd_kafka_producev(k->out.rk,
	    RD_KAFKA_V_TOPIC(k->t->topic),
	    RD_KAFKA_V_PARTITION(head[0] < 0 ? RD_KAFKA_PARTITION_UA :
	    head[0]),
	    RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE(value, value_len),
	    RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
	    RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
		(void)rd_kafka_poll(k->out.rk, 50);
		if (k->failed != RD_KAFKA_RESP_ERR_NO_ERROR)
			return (refuse_record(k, k->failed));
	}
	FAULT_POINT(kafka_produce_after);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		return (refuse_record(k, code));
	k->waiting++;
	return (GO_ON);
}

static enum step
begin(struct kafka_sink *k)
{
	rd_kafka_error_t *error;
	enum step step;

	FAULT_POINT(kafka_begin_before);
	if (k->t->exactly_once && (error = rd_kafka_begin_transaction(
	    k->out.rk)) != NULL) {
		step = judge(k, error, "begin a transaction");
		return (step == GO_ON ? ANEW : step);
	}
	FAULT_POINT(kafka_begin_after);
	k->began_ns = clock_mono_ns();
	k->bytes = 0;
	return (GO_ON);
}

/* The batch, up to what one transaction may have. */
static enum step
produce(struct kafka_sink *k)
{
	enum step step = GO_ON;
	uint64_t end;
	uint32_t len;
	uint8_t *p;

	while (step == GO_ON && k->at < k->batch.len &&
	    k->bytes < (uint64_t)k->w->conf.outbox_mark / 2) {
		if (k->began_ns == 0 && (step = begin(k)) != GO_ON)
			return (step);
		p = k->batch.data + k->at;
		memcpy(&end, p, sizeof(end));
		memcpy(&len, p + sizeof(end), sizeof(len));
		p += sizeof(end) + sizeof(len);
		if (end > k->last)	/* it may have left, from here on */
			k->last = end;
		step = produce_one(k, p, len);
		k->end = end;
		k->bytes += len;
		k->at += sizeof(end) + sizeof(len) + len;
	}
	(void)rd_kafka_poll(k->out.rk, 0);
	return (step);
}

/* --- the thread: commits ------------------------------------------------- */

/* rd_kafka_flush() would look only each 10 ms. */
static enum step
await_reports(struct kafka_sink *k)
{
	uint64_t begun = clock_mono_ns();

	while (k->waiting > 0 && k->failed == RD_KAFKA_RESP_ERR_NO_ERROR) {
		(void)rd_kafka_poll(k->out.rk, 100);
		if (clock_mono_ns() - begun > SAY_NS)
			complain(k, RD_KAFKA_RESP_ERR__TIMED_OUT,
			    "have records taken");
		if (rd_kafka_fatal_error(k->out.rk, NULL, 0) !=
		    RD_KAFKA_RESP_ERR_NO_ERROR)
			return (ANEW);
	}
	return (k->failed == RD_KAFKA_RESP_ERR_NO_ERROR ? GO_ON :
	    refuse_record(k, k->failed));
}

static rd_kafka_topic_partition_list_t *
place(const struct kafka_sink *k)
{
	rd_kafka_topic_partition_list_t *list =
	    rd_kafka_topic_partition_list_new(1);

	(void)rd_kafka_topic_partition_list_add(list, k->t->topic, 0);
	return (list);
}

static enum step
send_position(struct kafka_sink *k)
{
	rd_kafka_topic_partition_list_t *list = place(k);
	rd_kafka_consumer_group_metadata_t *group =
	    rd_kafka_consumer_group_metadata_new(k->id);
	rd_kafka_error_t *error;
	enum step step = GO_ON;

	list->elems[0].offset = (int64_t)k->end;
	list->elems[0].metadata = xstrdup(k->owner);
	list->elems[0].metadata_size = strlen(k->owner);
	FAULT_POINT(kafka_offsets_before);
	while (step == GO_ON && (error = rd_kafka_send_offsets_to_transaction(
	    k->out.rk, list, group, CALL_MS)) != NULL)
		step = judge(k, error, "send the position");
	FAULT_POINT(kafka_offsets_after);
	rd_kafka_consumer_group_metadata_destroy(group);
	rd_kafka_topic_partition_list_destroy(list);
	return (step);
}

static enum step
commit(struct kafka_sink *k)
{
	rd_kafka_error_t *error;
	enum step step;

	if ((step = await_reports(k)) != GO_ON)
		return (step);
	if (k->t->exactly_once) {
		if ((step = send_position(k)) != GO_ON)
			return (step);
		FAULT_POINT(kafka_commit_before);
		while (step == GO_ON && (error = rd_kafka_commit_transaction(
		    k->out.rk, CALL_MS)) != NULL)
			step = judge(k, error, "commit a transaction");
		if (step != GO_ON)
			return (step);
		FAULT_POINT(kafka_commit_after);
	}
	k->began_ns = k->bytes = 0;
	k->kept_ns = clock_mono_ns();
	k->first = k->end;
	pthread_mutex_lock(&k->lock);
	k->position = k->end;
	pthread_mutex_unlock(&k->lock);
	set_wait(k, "");
	wake_loop(k);
	return (GO_ON);
}

/* --- the thread: a new producer ------------------------------------------ */

static int
open_clients(struct kafka_sink *k, struct err *err)
{
	static const char *const defaults[] = { "retry.backoff.ms", "10",
	    "socket.nagle.disable", "true", "linger.ms", "5",
	    "transaction.timeout.ms", "10000",
	    "partitioner", "murmur2_random", NULL };
	static const char *const quick[] = { "socket.nagle.disable", "true",
	    NULL };
	const char *const once[] = { "transactional.id", k->id,
	    "enable.idempotence", "true", NULL };
	static const char *const often[] = { "enable.idempotence", "true",
	    NULL };
	const char *const reads[] = { "group.id", k->id,
	    "enable.auto.commit", "false", "isolation.level",
	    "read_committed", NULL };
	struct kafka_how out = { .type = RD_KAFKA_PRODUCER, .what = "sink",
	    .name = k->t->name, .defaults = defaults,
	    .fixed = k->t->exactly_once ? once : often,
	    .dr_msg_cb = on_delivery, .arg = k };
	struct kafka_how group = { .type = RD_KAFKA_CONSUMER, .what = "sink",
	    .name = k->t->name, .defaults = quick, .fixed = reads, .arg = k };

	if (kafka_open(&k->out, &out, &k->t->kafka, err) == -1)
		return (-1);
	if (!k->t->exactly_once ||
	    kafka_open(&k->group, &group, &k->t->kafka, err) == 0)
		return (0);
	kafka_close(&k->out);
	return (-1);
}

static void
close_clients(struct kafka_sink *k)
{
	if (k->out.rk != NULL) {
		(void)rd_kafka_purge(k->out.rk, RD_KAFKA_PURGE_F_QUEUE |
		    RD_KAFKA_PURGE_F_INFLIGHT);
		kafka_close(&k->out);
	}
	if (k->group.rk != NULL)
		kafka_close(&k->group);
	buf_clear(&k->batch);
	k->at = 0;
	k->began_ns = k->bytes = 0;
	k->waiting = 0;
	k->failed = RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Known before the first record: librdkafka is slow to look otherwise. */
static enum step
await_topic(struct kafka_sink *k)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(k->out.rk, k->t->topic,
	    NULL);
	const struct rd_kafka_metadata *m = NULL;
	rd_kafka_resp_err_t code;
	enum step step = GO_ON;

	if (topic == NULL)
		return (ANEW);
	code = rd_kafka_metadata(k->out.rk, 0, topic, &m, CALL_MS);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = m->topic_cnt == 1 ? m->topics[0].err :
		    RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
		complain(k, code, "look for the topic");
		step = ANEW;
	}
	if (m != NULL)
		rd_kafka_metadata_destroy(m);
	rd_kafka_topic_destroy(topic);
	return (step);
}

/* Whatever another with our id has begun is over with this. */
static enum step
take_over(struct kafka_sink *k)
{
	rd_kafka_error_t *error;
	enum step step = GO_ON;

	while (step == GO_ON && (error = rd_kafka_init_transactions(k->out.rk,
	    CALL_MS)) != NULL)
		step = judge(k, error, "become the topic's producer");
	return (step);
}

static enum step
refuse_position(struct kafka_sink *k, enum err_code code, const char *why)
{
	struct err err;

	if (k->w->flags & START_ACCEPT_LOSS) {
		log_warn("%s; going on at %" PRIu64 ", as was accepted; what "
		    "was committed behind it comes again sink=\"%s\" "
		    "group=\"%s\"", why, k->first, k->t->name, k->id);
		k->end = k->first;
		return (GO_ON);
	}
	(void)err_set(&err, code, "sink \"%s\": %s (group %s, topic %s); to "
	    "go on at %" PRIu64 ", which is the last position that this "
	    "worker knows of, start with --accept-loss; see "
	    "wallaroo-kafka(7)", k->t->name, why, k->id, k->t->topic,
	    k->first);
	return (give_up(k, EXIT_PERMANENT, &err));
}

static enum step
refuse_owner(struct kafka_sink *k)
{
	struct err err;

	(void)err_set(&err, ERR_REFUSED, "sink \"%s\": another owner writes "
	    "to the topic %s as %s: this worker commits nothing any more; "
	    "stop the other application of this name, or give one of them "
	    "another", k->t->name, k->t->topic, k->id);
	return (give_up(k, EXIT_PERMANENT, &err));
}

/* What Kafka has, and whose it is: "" was set by an operator. */
static enum step
use_position(struct kafka_sink *k, int64_t offset, const char *owner)
{
	uint64_t id = 0, epoch = 0;
	bool ours = owner[0] == '\0' || (sscanf(owner, "wallaroo %" SCNx64
	    " %" SCNu64, &id, &epoch) == 2 && id == k->owner_id &&
	    epoch <= k->w->epoch);

	if (offset >= 0 && !ours && !k->virgin)
		return (refuse_owner(k));
	if (offset < 0 && !k->virgin)
		return (refuse_position(k, ERR_REFUSED, "Kafka has forgotten "
		    "how far the topic has come"));
	if (offset >= 0 && !ours)
		log_info("the topic had another owner, whose position says "
		    "nothing here sink=\"%s\" group=\"%s\"", k->t->name,
		    k->id);
	k->end = offset < 0 || !ours ? k->first : (uint64_t)offset;
	if (k->end >= k->first && (k->end <= k->last || k->restored))
		return (GO_ON);
	return (refuse_position(k, ERR_CORRUPT, "the outbox does not hold "
	    "what comes behind the position in Kafka"));
}

/* Where to go on: what was committed last. */
static enum step
read_back(struct kafka_sink *k)
{
	rd_kafka_topic_partition_list_t *list = place(k);
	const rd_kafka_topic_partition_t *p = &list->elems[0];
	rd_kafka_resp_err_t code;
	char owner[OWNER] = "";
	enum step step = ANEW;

	code = rd_kafka_committed(k->group.rk, list, CALL_MS);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = p->err;
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
		if (p->metadata_size > 0 && p->metadata_size < OWNER)
			memcpy(owner, p->metadata, p->metadata_size);
		step = use_position(k, p->offset, owner);
	} else
		complain(k, code, "read the position");
	rd_kafka_topic_partition_list_destroy(list);
	return (step);
}

/* The loop goes back there. */
static void
say_ready(struct kafka_sink *k)
{
	log_info("topic is ready sink=\"%s\" committed=%" PRIu64, k->t->name,
	    k->end);
	pthread_mutex_lock(&k->lock);
	buf_clear(&k->in);
	k->position = k->end;
	k->rewind = k->ready = true;
	k->settled = true;
	pthread_mutex_unlock(&k->lock);
	set_wait(k, "");
	wake_loop(k);
}

static enum step
set_up(struct kafka_sink *k)
{
	struct err err;
	enum step step;

	if (open_clients(k, &err) == -1)
		return (give_up(k, EXIT_PERMANENT, &err));
	if ((step = await_topic(k)) != GO_ON)
		return (step);
	if (!k->t->exactly_once) {
		k->end = k->first;
		say_ready(k);
		return (GO_ON);
	}
	if ((step = take_over(k)) != GO_ON || (step = read_back(k)) != GO_ON)
		return (step);
	if ((step = begin(k)) != GO_ON || (step = commit(k)) != GO_ON)
		return (step);
	k->virgin = false;
	say_ready(k);
	return (GO_ON);
}

/* --- the thread ---------------------------------------------------------- */

/* Wait for records, or until it is time; true: there is a stop. */
static bool
next_batch(struct kafka_sink *k, uint64_t until_ns)
{
	struct timespec until = at_ns(until_ns);
	struct buf b;
	bool stop;

	pthread_mutex_lock(&k->lock);
	if (k->at == k->batch.len && k->in.len == 0 && !k->stop)
		(void)pthread_cond_timedwait(&k->wake, &k->lock, &until);
	if (k->at == k->batch.len && k->in.len > 0 && !k->stop) {
		b = k->batch;
		k->batch = k->in;
		k->in = b;
		buf_clear(&k->in);
		k->at = 0;
		k->settled = false;
		if (k->full)
			wake_loop(k);
		k->full = false;
	}
	stop = k->stop;
	pthread_mutex_unlock(&k->lock);
	return (stop);
}

static uint64_t
commit_time(const struct kafka_sink *k)
{
	if (k->began_ns != 0)
		return (k->began_ns + (uint64_t)k->t->commit_ms * 1000000);
	return (k->t->exactly_once ? k->kept_ns + KEEP_NS :
	    clock_mono_ns() + 1000000000);
}

static enum step
one_turn(struct kafka_sink *k)
{
	bool stop = next_batch(k, commit_time(k)), full;
	enum step step;

	if (!stop && (step = produce(k)) != GO_ON)
		return (step);
	if (rd_kafka_fatal_error(k->out.rk, NULL, 0) !=
	    RD_KAFKA_RESP_ERR_NO_ERROR)
		return (ANEW);
	full = k->bytes >= (uint64_t)k->w->conf.outbox_mark / 2;
	if (k->began_ns == 0 && k->t->exactly_once && !stop &&
	    clock_mono_ns() >= commit_time(k) &&
	    (step = begin(k)) != GO_ON)
		return (step);
	if (k->began_ns != 0 && (stop || full ||
	    clock_mono_ns() >= commit_time(k)) &&
	    (step = commit(k)) != GO_ON)
		return (step);
	return (stop ? QUIT : GO_ON);
}

static void
say_not_ready(struct kafka_sink *k)
{
	pthread_mutex_lock(&k->lock);
	k->ready = false;
	pthread_mutex_unlock(&k->lock);
}

static void *
run(void *arg)
{
	struct kafka_sink *k = arg;
	enum step step = ANEW;

	while (step != QUIT && !is_stopping(k)) {
		step = set_up(k);
		while (step == GO_ON)
			step = one_turn(k);
		if (step == QUIT)
			break;
		say_not_ready(k);
		close_clients(k);
		pause_ms(k, PAUSE_MS);
	}
	pthread_mutex_lock(&k->lock);
	k->ended = true;
	k->settled |= k->began_ns == 0 && k->ready;
	pthread_cond_signal(&k->over);
	pthread_mutex_unlock(&k->lock);
	return (NULL);
}

/* --- the loop ------------------------------------------------------------ */

static void
on_said(struct ev_loop *loop, ev_async *a, int events)
{
	(void)loop;
	(void)a;
	(void)events;			/* a turn follows */
}

/* Records that may leave, as far as the queue has room.  Under the lock. */
static bool
put_records(struct kafka_sink *k)
{
	struct sink *s = k->s;
	uint64_t limit = durable_sink_limit(k->w), next, at, off, end;
	bool any = false;
	struct frame f;
	uint32_t i, len;

	while (s->frame < outbox_tail(&s->box)) {
		next = outbox_frame(&s->box, s->frame, &f);
		if (f.pos > limit)
			break;
		at = f.payload;
		off = s->frame + FRAME_HEADER;
		for (i = 0; i < f.records && f.lens != 0; i++, at = end) {
			outbox_read(&s->box, off + f.len + i * 4, &len, 4);
			end = at + len;
			if (at < s->written || len < KAFKA_RECORD_HEADER)
				continue;
			if (k->in.len >= QUEUE_BYTES) {
				k->full = true;
				return (any);
			}
			buf_add(&k->in, &end, sizeof(end));
			buf_add(&k->in, &len, sizeof(len));
			outbox_read(&s->box, off + (at - f.payload),
			    buf_reserve(&k->in, len), len);
			k->in.len += len;
			s->written = end;
			any = true;
		}
		s->frame = next;
	}
	return (any);
}

/* What the topic has leaves the outbox. */
static void
release(struct kafka_sink *k, uint64_t position, bool rewind)
{
	struct outbox_sink *o = outbox_sink(&k->s->box);

	o->resume = position;
	o->opened = 1;
	sink_trim(k->s, position);
	if (rewind)
		sink_seek(k->s, position);
	/* After a power loss: not there yet, comes and is skipped. */
	if (k->s->written < position)
		k->s->written = position;
	if (position <= k->s->box.payload_tail)
		o->cut = 0;
}

/* Under the lock. */
static void
say_wait(struct kafka_sink *k)
{
	struct msg_waits m = { .sink = (uint32_t)k->s->index,
	    .why = msg_cstr(k->wait.text) };
	struct buf b = { 0 };

	k->news = false;
	msg_put_waits(&b, &m);
	control_send(k->w, &b);
	buf_fini(&b);
}

void
kafka_sink_flush(struct sink *s)
{
	struct kafka_sink *k = s->kafka;
	uint64_t position;
	bool rewind, ready;
	int code;

	pthread_mutex_lock(&k->lock);
	code = k->code;
	position = k->position;
	ready = k->ready;
	rewind = ready && k->rewind;
	if (rewind)
		k->rewind = false;
	if (k->news)
		say_wait(k);
	if (code == 0 && ready) {
		release(k, position, rewind);
		if (put_records(k))
			pthread_cond_signal(&k->wake);
	}
	pthread_mutex_unlock(&k->lock);
	if (code != 0)
		worker_fatal(k->w, code, "%s", k->why.text);
}

/* Who we are, for as long as this outbox is continued. */
static void
name_owner(struct kafka_sink *k)
{
	struct outbox_sink *o = outbox_sink(&k->s->box);

	k->virgin = o->opened == 0;
	while (o->dev == 0)
		clock_random(&o->dev, sizeof(o->dev));
	k->owner_id = o->dev;
	snprintf(k->owner, sizeof(k->owner), "wallaroo %" PRIx64 " %" PRIu64,
	    k->owner_id, k->w->epoch);
}

static int
start(struct kafka_sink *k, struct err *err)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&k->thread, NULL, run, k);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0)
		return (0);
	errno = r;
	return (err_sys(err, ERR_SYSTEM, "cannot start a thread"));
}

/* Of what tools and access lists take everywhere. */
static char *
make_id(const struct kafka_sink *k)
{
	char *id = xasprintf("wallaroo-%s-%s-%u", k->w->topo.application,
	    k->t->name, k->w->me), *p;

	for (p = id; *p != '\0'; p++)
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvw"
		    "xyz0123456789._-", *p) == NULL)
			*p = '-';
	return (id);
}

int
kafka_sink_open(struct sink *s, struct err *err)
{
	struct kafka_sink *k = s->kafka = xcalloc(1, sizeof(*k));
	struct outbox_sink *o = outbox_sink(&s->box);
	pthread_condattr_t monotonic;

	k->w = s->w;
	k->s = s;
	k->t = &s->w->topo.sinks[s->index];
	k->id = make_id(k);
	pthread_mutex_init(&k->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&k->wake, &monotonic);
	pthread_cond_init(&k->over, &monotonic);
	pthread_condattr_destroy(&monotonic);
	k->first = sink_kept_from(s);
	if (o->resume > k->first && o->resume <= s->box.payload_tail)
		k->first = o->resume;
	k->last = s->box.payload_tail;
	k->restored = o->cut == 1;
	k->position = k->first;
	name_owner(k);
	o->file_base = 0;		/* not settled */
	sink_seek(s, k->first);
	ev_async_init(&k->said, on_said);
	ev_async_start(s->w->loop, &k->said);
	return (start(k, err));
}

void
kafka_sink_finish(struct sink *s)
{
	struct kafka_sink *k = s->kafka;
	struct timespec until = at_ns(clock_mono_ns() + FINISH_NS);
	int r = 0;

	if (k == NULL)
		return;
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_signal(&k->wake);
	while (!k->ended && r == 0)
		r = pthread_cond_timedwait(&k->over, &k->lock, &until);
	if (k->position > outbox_sink(&s->box)->resume)
		release(k, k->position, false);
	outbox_sink(&s->box)->file_base = k->ended && k->settled;
	pthread_mutex_unlock(&k->lock);
	if (outbox_sink(&s->box)->file_base == 0)
		log_warn("stopped before the brokers have answered; the next "
		    "start asks them how far the topic has come sink=\"%s\"",
		    k->t->name);
}
