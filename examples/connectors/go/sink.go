// Takes a sink of Wallaroo into files, each message exactly once, by nothing
// but the standard library: go run sink.go wire.go DIRECTORY.  DIR/STREAM has
// the messages; DIR/STREAM.state says how many bytes of it are valid.  The
// address and the cookie come from the environment.
package main

import (
	"bufio"
	"crypto/subtle"
	"errors"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"sync"
	"time"
)

const data = 1 // the stream that has it

type output struct { // of one worker
	lock           sync.Mutex // held by the connection that it has
	conn           net.Conn
	file           *os.File
	path           string
	committed, end uint64
	length         uint64
	id             string // of what is prepared, up to end; "": nothing is
	gap            bool
}

var (
	lock    sync.Mutex
	outputs = map[string]*output{}
)

func check(err error) {
	if err != nil { // the disk: start again from what it has
		log.Fatal(err)
	}
}

func (o *output) save() {
	check(o.file.Sync())
	f, err := os.Create(o.path + ".new")
	check(err)
	fmt.Fprintf(f, "%d\n%d %q\n", o.committed, o.end, o.id)
	check(f.Sync())
	check(f.Close())
	check(os.Rename(o.path+".new", o.path+".state"))
	dir, err := os.Open(os.Args[1])
	check(err)
	check(dir.Sync())
	dir.Close()
}

func (o *output) open() {
	text, err := os.ReadFile(o.path + ".state")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%d\n%d %q", &o.committed, &o.end, &o.id)
	}
	if !errors.Is(err, os.ErrNotExist) {
		check(err)
	}
	o.cut()
}

// Give up what is neither committed nor prepared.
func (o *output) cut() {
	if o.length, o.gap = o.committed, false; o.id != "" {
		o.length = o.end
	}
	check(o.file.Truncate(int64(o.length)))
}

// The output of this name; whoever had it before loses its connection.
func take(name string, conn net.Conn) *output {
	lock.Lock()
	o := outputs[name]
	if o == nil {
		path := os.Args[1] + "/" + url.PathEscape(name)
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0666)
		check(err)
		o = &output{path: path, file: file}
		outputs[name] = o
	} else if o.conn != nil {
		o.conn.Close()
	}
	o.conn = conn
	lock.Unlock()
	o.lock.Lock()
	o.open()
	return o
}

func inner(parts ...interface{}) []byte {
	body := frame(0, parts...)[5:]
	return frame(MESSAGE, uint64(0), uint64(0), int64(0), "", body)
}

func (o *output) control(f *fields, conn net.Conn) error {
	switch tag := f.u8(); tag {
	case 201: // ListUncommitted
		parts := []interface{}{byte(202), f.u64(), uint32(0)}
		if o.id != "" {
			parts[2] = uint32(1)
			parts = append(parts, o.id)
		}
		conn.Write(inner(parts...))
	case 203: // Phase1
		id, n, stream, start, end := f.text(), f.u32(), f.u64(), f.u64(), f.u64()
		if f.bad || o.id != "" {
			return errors.New("Phase1 cannot be here")
		}
		yes := n == 1 && stream == data && start == o.committed &&
			start <= end && end <= o.length && !o.gap
		if yes {
			o.id, o.end = id, end
			o.save()
		}
		conn.Write(inner(byte(204), id, yes))
	case 205: // Phase2
		id, commit := f.text(), f.u8() == 1
		if f.bad || (o.id != "" || commit) && id != o.id {
			return fmt.Errorf("%q was not prepared", id)
		}
		if commit {
			o.committed = o.end
		}
		o.id = ""
		o.save()
		o.cut()
	}
	return nil
}

func (o *output) message(f *fields, conn net.Conn, greeted *bool) error {
	stream, offset, _, _ := f.u64(), f.u64(), f.u64(), f.text()
	if stream == 0 && !f.bad && len(f.b) > 0 {
		*greeted = *greeted || f.b[0] == 201
		return o.control(f, conn)
	}
	if f.bad || stream != data || !*greeted || o.id != "" || offset < o.length {
		return fmt.Errorf("a message at %d cannot be here", offset)
	}
	if o.gap = o.gap || offset > o.length; !o.gap {
		_, err := o.file.WriteAt(f.b, int64(offset))
		check(err)
		o.length += uint64(len(f.b))
	}
	return nil
}

func session(conn net.Conn, in *bufio.Reader) error {
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	tag, f, err := read(in)
	if err != nil || tag != HELLO || f.text() != "v0.0.1" {
		return errors.New("HELLO of version v0.0.1 must come first")
	}
	cookie := []byte(os.Getenv("WALLAROO_CONNECTOR_COOKIE"))
	if subtle.ConstantTimeCompare([]byte(f.text()), cookie) != 1 {
		return errors.New("Bad cookie")
	}
	conn.Write(frame(OK, uint32(500)))
	tag, f, err = read(in)
	if err != nil || tag != NOTIFY || f.u64() != data {
		return errors.New("NOTIFY must follow")
	}
	o := take(f.text(), conn)
	defer o.lock.Unlock()
	conn.Write(frame(NOTIFY_ACK, true, uint64(data), o.length))
	conn.SetReadDeadline(time.Time{})
	for greeted := false; ; {
		if tag, f, err = read(in); err != nil {
			return err
		}
		if tag != MESSAGE {
			return fmt.Errorf("a frame of tag %d cannot be here", tag)
		}
		if err = o.message(f, conn, &greeted); err != nil {
			return err
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", os.Getenv("WALLAROO_CONNECTOR_ADDRESS"))
	check(err)
	for {
		conn, err := listener.Accept()
		check(err)
		go func() {
			err := session(conn, bufio.NewReader(conn))
			log.Print("a connection ends: ", err)
			conn.Write(frame(ERROR, err.Error()))
			conn.Close()
		}()
	}
}
