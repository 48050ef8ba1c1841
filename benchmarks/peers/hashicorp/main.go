// One server of hashicorp/raft with boltdb in the comparison, driven over standard input and output.
//
//	hashicorp --directory=D n1 n1=HOST:PORT n2=HOST:PORT ...
//
// The library's defaults, but for MaxAppendEntries, which is 1024 so that a batch may hold as much as trio_raft's, and
// snapshots, which nobody takes here. The callers live in this process, beside the server.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"../driven"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

const (
	maxAppendEntries = 1024
	logCacheEntries  = 512
	applyTimeout     = 10 * time.Second
	lookAgain        = time.Millisecond
)

// table is a key-value table of bytes: the first eight are the key. Only the library's own task touches it.
type table map[uint64][]byte

func (t table) Apply(entry *raft.Log) interface{} {
	t[binary.BigEndian.Uint64(entry.Data)] = entry.Data[8:]
	return nil
}

func (t table) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("nobody takes snapshots here")
}

func (t table) Restore(snapshot io.ReadCloser) error { return snapshot.Close() }

// countingStore counts what one transaction of the log holds.
type countingStore struct {
	raft.LogStore
	batches, entries int64
}

func (c *countingStore) StoreLogs(entries []*raft.Log) error {
	atomic.AddInt64(&c.batches, 1)
	atomic.AddInt64(&c.entries, int64(len(entries)))
	return c.LogStore.StoreLogs(entries)
}

func (c *countingStore) StoreLog(entry *raft.Log) error { return c.StoreLogs([]*raft.Log{entry}) }

type server struct {
	raft    *raft.Raft
	log     *countingStore
	members map[raft.ServerAddress]string
}

func main() {
	directory := flag.String("directory", "", "where this server keeps its log")
	flag.Parse()
	driven.Must(os.MkdirAll(*directory, 0o700))
	s := start(*directory, flag.Arg(0), flag.Args()[1:])
	driven.Serve(s.obey)
}

func start(directory, name string, members []string) *server {
	names := map[raft.ServerAddress]string{}
	var first raft.Configuration
	var own string
	for _, member := range members {
		words := strings.SplitN(member, "=", 2)
		names[raft.ServerAddress(words[1])] = words[0]
		first.Servers = append(first.Servers, raft.Server{ID: raft.ServerID(words[0]), Address: raft.ServerAddress(words[1])})
		if words[0] == name {
			own = words[1]
		}
	}
	settings := raft.DefaultConfig()
	settings.LocalID = raft.ServerID(name)
	settings.MaxAppendEntries = maxAppendEntries
	settings.SnapshotThreshold = 1 << 40
	settings.LogLevel = "WARN"
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(directory, "raft.db"))
	driven.Must(err)
	counting := &countingStore{LogStore: bolt}
	cached, err := raft.NewLogCache(logCacheEntries, counting)
	driven.Must(err)
	snapshots, err := raft.NewFileSnapshotStore(directory, 1, io.Discard)
	driven.Must(err)
	transport, err := raft.NewTCPTransport(own, nil, 3, applyTimeout, io.Discard)
	driven.Must(err)
	driven.Must(raft.BootstrapCluster(settings, cached, bolt, snapshots, transport, first))
	node, err := raft.NewRaft(settings, table{}, cached, bolt, snapshots, transport)
	driven.Must(err)
	return &server{raft: node, log: counting, members: names}
}

func (s *server) obey(request driven.Request) (driven.Answer, error) {
	switch request.Do {
	case "leader":
		for s.raft.Leader() == "" {
			time.Sleep(lookAgain)
		}
		return driven.Answer{"leader": s.members[s.raft.Leader()]}, nil
	case "usage":
		term, err := strconv.Atoi(s.raft.Stats()["term"])
		return driven.Answer{
			"entries": atomic.LoadInt64(&s.log.entries),
			"batches": atomic.LoadInt64(&s.log.batches),
			"term":    term,
		}, err
	case "propose":
		return driven.Loop(request, func(_ int, number int64) error { return s.write(number, request.CommandBytes) })
	case "write":
		for end := driven.Deadline(request); time.Now().Before(end); time.Sleep(lookAgain) {
			if s.write(0, 100) == nil {
				return driven.Answer{}, nil
			}
		}
		return nil, errors.New("no write was accepted in time")
	}
	return nil, errors.New(request.Do + " is nothing that a server does")
}

func (s *server) write(number int64, size int) error {
	command := make([]byte, size)
	binary.BigEndian.PutUint64(command, uint64(number%driven.DistinctKeys))
	return s.raft.Apply(command, applyTimeout).Error()
}
