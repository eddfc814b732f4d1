// Feeds the numbers from 1 to 1000 to a source of Wallaroo, by nothing but
// the standard library: go run source.go wire.go.  The address and the cookie
// come from the environment, see wallaroo-connectors(7).
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os"
	"time"
)

const (
	stream = 7 // its number, the same after each start
	last   = 1000
)

type refused struct{ text string }

func (r refused) Error() string { return r.text }

// One connection.  Where to connect next, and whether everything is done.
func session(where string) (string, bool, error) {
	conn, err := net.Dial("tcp", where)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	conn.Write(frame(HELLO, "0.0.1", os.Getenv("WALLAROO_CONNECTOR_COOKIE"),
		"numbers in Go", os.Getenv("WALLAROO_CONNECTOR_NAME")))
	tag, body, err := read(in)
	if err != nil {
		return "", false, err
	}
	if tag == ERROR {
		return "", false, refused{body.text()}
	}
	credits := int64(body.u32())
	ask, open, ended := true, false, false
	var at, point uint64 // what is sent next; behind what to go on
	for {
		var out []byte
		switch {
		case credits > 0 && ask:
			out, ask = frame(NOTIFY, uint64(stream), "numbers", uint64(0)), false
		case credits > 0 && open && at <= last:
			out = frame(MESSAGE, uint64(stream), at, int64(0), "",
				[]byte(fmt.Sprint(at)))
			at++
		case credits > 0 && open && !ended:
			out, ended = frame(EOS, uint64(stream)), true
		}
		if out != nil {
			credits--
			if _, err = conn.Write(out); err != nil {
				return "", false, err
			}
			continue
		}
		if tag, body, err = read(in); err != nil {
			return "", false, err
		}
		switch tag {
		case NOTIFY_ACK:
			open = body.u8() == 1
			_, point = body.u64(), body.u64()
			at = 1
			if open && point != nothing {
				at = point + 1
			}
		case ACK:
			credits += int64(body.u32())
			for n := body.u32(); n > 0; n-- {
				id, safe := body.u64(), body.u64()
				if id == stream && ended && safe == at-1 {
					return "", true, nil
				}
			}
			ask = !open // it was refused: it may be free now
		case RESTART:
			return string(body.take(int(body.u32()))), false, nil
		case ERROR:
			return "", false, fmt.Errorf("the worker says %q", body.text())
		}
		if body.bad {
			return "", false, fmt.Errorf("nonsense with tag %d", tag)
		}
	}
}

func main() {
	first := os.Getenv("WALLAROO_CONNECTOR_ADDRESS")
	wait, where := 100*time.Millisecond, first
	for {
		next, done, err := session(where)
		if done {
			return
		}
		if refusal, ok := err.(refused); ok {
			log.Print("refused: ", refusal)
			os.Exit(100)
		}
		if where = next; where == "" {
			where = first
		}
		log.Printf("connecting again to %s: %v", where, err)
		time.Sleep(wait)
		if wait *= 2; err == nil || wait > 2*time.Second {
			wait = 100 * time.Millisecond
		}
	}
}
