// Package tokens takes tokens from the buckets of token-bucket-operator with a plain AMQP client.
package tokens

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// While the operator replaces a queue, because its maximum is raised, the queue is missing for some milliseconds.
const missingAtMost = 2 * time.Second

// Client keeps one connection to the broker. It is for one goroutine.
type Client struct {
	url        string
	connection *amqp.Connection
	channel    *amqp.Channel
}

// New makes a client for the broker of an amqp:// URI. It connects when a token is taken.
func New(url string) (*Client, error) {
	// The parser's own error repeats the URI, hence the password.
	if _, err := amqp.ParseURI(url); err != nil {
		return nil, errors.New("not an AMQP URI: write amqp://user:password@host:5672/vhost, special characters escaped")
	}
	return &Client{url: url}, nil
}

// TryTake takes a token of the bucket if there is one. The queue is never declared here: that is the operator's part.
func (c *Client) TryTake(ctx context.Context, bucket string) (bool, error) {
	var missing time.Time
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		_, taken, err := c.get("token_bucket_" + bucket)
		if err == nil {
			return taken, nil
		}
		switch code(err) {
		case amqp.NotFound, amqp.ResourceLocked:
			if missing.IsZero() {
				log.Printf("bucket %s: no queue at the moment; looking again", bucket)
				missing = time.Now()
			}
			if time.Since(missing) > missingAtMost {
				return false, fmt.Errorf("bucket %s: %w: see kubectl get tb, and the name and the virtual host here", bucket, err)
			}
			wait = 50 * time.Millisecond
		case amqp.AccessRefused:
			return false, fmt.Errorf("bucket %s: %w: the user needs to exist, and read on token_bucket_%s", bucket, err, bucket)
		default:
			missing = time.Time{}
			log.Printf("bucket %s: %v; connecting again in about %s", bucket, err, wait)
		}
		if err := Pause(ctx, wait); err != nil {
			return false, err
		}
	}
}

// get asks the broker for one token. It is gone when the answer is sent: nothing is to be acknowledged.
func (c *Client) get(queue string) (token amqp.Delivery, taken bool, err error) {
	if err = c.open(); err == nil {
		token, taken, err = c.channel.Get(queue, true)
	}
	return token, taken, err
}

// open makes a channel if there is none, or if the broker has closed it, which it does with each error.
func (c *Client) open() (err error) {
	if c.connection == nil || c.connection.IsClosed() {
		if c.connection != nil {
			log.Print("the connection to the broker is lost; connecting again")
		}
		if c.connection, err = amqp.Dial(c.url); err != nil {
			return err
		}
		c.channel = nil
	}
	if c.channel == nil || c.channel.IsClosed() {
		c.channel, err = c.connection.Channel()
	}
	return err
}

// TakeFirst takes a token of the first bucket that has one.
func (c *Client) TakeFirst(ctx context.Context, buckets []string) (bool, error) {
	for _, bucket := range buckets {
		if taken, err := c.TryTake(ctx, bucket); taken || err != nil {
			return taken, err
		}
	}
	return false, nil
}

// TakeEach takes a token of every bucket, or none: when one has none, those before it get theirs back.
func (c *Client) TakeEach(ctx context.Context, buckets []string) (bool, error) {
	for i, bucket := range buckets {
		taken, err := c.TryTake(ctx, bucket)
		if taken {
			continue
		}
		for _, held := range buckets[:i] {
			if err := c.GiveBack(ctx, held); err != nil {
				log.Print(err)
			}
		}
		return false, err
	}
	return true, nil
}

// GiveBack puts a token into the bucket again. Above its maximum the broker drops one.
func (c *Client) GiveBack(ctx context.Context, bucket string) error {
	if err := c.publish(ctx, "token_bucket_"+bucket); err != nil {
		return fmt.Errorf("bucket %s: a token is lost: %w: to give it back, the user needs write on amq.default", bucket, err)
	}
	return nil
}

// publish returns when the broker has confirmed a new message.
func (c *Client) publish(ctx context.Context, queue string) error {
	if err := c.open(); err != nil {
		return err
	}
	if err := c.channel.Confirm(false); err != nil {
		return err
	}
	token := amqp.Publishing{DeliveryMode: amqp.Persistent}
	confirm, err := c.channel.PublishWithDeferredConfirm("", queue, false, false, token)
	if err != nil {
		return err
	}
	confirmed, err := confirm.WaitContext(ctx)
	if err == nil && !confirmed {
		err = errors.New("the broker does not confirm it")
	}
	return err
}

// code is the AMQP reply code with which the broker has refused something, or 0.
func code(err error) int {
	var refusal *amqp.Error
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return 0
}

// Pause waits for about so long: workers that wait for one bucket must not all ask at the same time.
func Pause(ctx context.Context, about time.Duration) error {
	select {
	case <-time.After(about/2 + rand.N(about)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
