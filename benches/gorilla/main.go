// A server for tickws-bench with gorilla/websocket, after its chat example: a prepared message per
// broadcast, no compression, and pooled write buffers, so that an idle connection holds none.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

var upgrader = websocket.Upgrader{
	ReadBufferSize:  4096,
	WriteBufferSize: 4096,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true },
}

type client struct {
	conn *websocket.Conn
	send chan *websocket.PreparedMessage
}

var (
	mutex   sync.Mutex
	clients = map[*client]bool{}
)

func echo(conn *websocket.Conn) {
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func broadcast(conn *websocket.Conn) {
	self := &client{conn, make(chan *websocket.PreparedMessage, 256)}
	mutex.Lock()
	clients[self] = true
	mutex.Unlock()
	go func() {
		for message := range self.send {
			if conn.WritePreparedMessage(message) != nil {
				return
			}
		}
	}()
	defer func() {
		mutex.Lock()
		delete(clients, self)
		mutex.Unlock()
		close(self.send)
	}()
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		prepared, err := websocket.NewPreparedMessage(kind, message)
		if err != nil {
			return
		}
		mutex.Lock()
		for other := range clients {
			other.send <- prepared
		}
		mutex.Unlock()
	}
}

func main() {
	// Ends with the parent, which holds the other end of standard input.
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	serve := echo
	if os.Args[1] == "broadcast" {
		serve = broadcast
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
