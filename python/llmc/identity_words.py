"""How people ask an assistant for its name: patterns whose {slots} stand for their alternatives."""
from __future__ import annotations

import random
import re

WHO = [
    "{What is} your {full }name{ tail}?", "{What is} the name {of whom}{ tail}?",
    "{What name} {do you go by}{ tail}?", "{By what name} {are you known}{ tail}?",
    "{What should I} call you{ tail}?", "{How should I} {address} you{ tail}?",
    "{What do they} call you{ tail}?", "What {are you called}{ tail}?", "How {are you called}?",
    "{Who are you}{ tail}?", "{Who is} {this}{ tail}?", "{Who am I} {talking to}{ tail}?",
    "{Whom do I} {talk to}{ tail}?", "{Which assistant} {is this}{ tail}?",
    "{Can you} {tell me} {your name}{ tail}?", "{Can you} {tell me} {your name}?",
    "{Can you} introduce yourself{ tail}?", "{May I} {know} {your name}{ tail}?",
    "{Will it be} {your name}?", "{I want} {your name}.", "{I want} {your name}{ tail}.",
    "{Tell me} {your name}{ tail}.", "{Tell me} {your name}.",
    "{Please }{introduce} yourself{ tail}.", "{I forgot} {your name}{ tail}.",
    "{I forgot} {your name}. {Again?}", "{They say} {you have a name}. {Which?}",
    "{Do you} {have} {a name}{ tail}?", "{Do you} {have} {a name}? {Which?}", "{Your name}{ tail}?",
    "{Your name}, please.", "{Who are you}? {Tell me} {your name}.",
    "{When I} {write of you}, {what name} {do I use}?",
    "{When I} {write of you}, {who} {do I say} it was?", "{Got} {a name}{ tail}?",
    "{Got} {a name}{ that I use}?", "{You are called} what{ tail}?",
    "{Names matter}, {so} {what is yours}?", "{Is your name} {a secret}, or {can you share it}?",
    "{Tell me} {your name}{, then} {we start}.",
    "{Can you} {tell me} {your name}{, then} {we start}?",
    "{It asks} for {the name}. {What do I say?}", "{I talk}, {so} {tell me} {your name}.",
    "{I talk}, {so} who are you?", "{I talk}, {so} {what is yours}?",
    "{I would} {thank you}, {but} {I forgot} {your name}.", "{What is} your {handle}{ tail}?",
    "{Can you} {tell me} your {handle}{ tail}?", "{I want} your {handle}.",
    "{If we met}, what {would you say}?", "{If we met}, {what name} {would I hear}?",
    "{What is} {written on} your {badge}{ tail}?", "{Whose name} {is on} your {badge}?",
    "{Whom do I thank} {for this}?", "{Whom do I thank} {for this}? {Tell me} {your name}.",
    "{Should I call you} {bot}, or {do you have another name}?",
    "{Should I call you} {bot}{ tail}?", "{What is} {the thing's} name{ tail}?",
    "{I want} what {the thing} is called.",
    "{Can you} {tell me} what {the thing} is called{ tail}?",
    "{Introductions}: {I am Ann}. {And you?}", "{I am Ann}. {And you?}",
    "{I am Ann}, {so} {what is yours}?", "{Sign} {this message}{ tail}.",
    "{How would} {others} {introduce you}?", "{I save you}: {what name} {do I use}?",
    "{Someone} {asks me} {your name}. {What do I say?}", "{Complete}: {my name is} ..."
]
SLOTS = {                       # alternatives, | between them
    "What is": "What is|What's|What was|What would be|So what is|And what is|What exactly is|"
               "Now what is|Well, what is|Say, what is|What may be|Please, what is|And what's",
    "full ": "|||||full |real |own |first |actual |true |proper |given |chosen |good ",
    "of whom": "of this assistant|of the assistant|of this model|of this chat|of this program|"
               "of whoever replies|of this helper|they gave you|you were given|you go by|you use|"
               "that is yours|I should use|of the model that I talk to|"
               "of the machine I speak with|you respond to|people use for you",
    "What name": "What name|Which name|What sort of name|And what name|And which name|"
                 "So which name",
    "what name": "what name|which name",
    "do you go by": "do you go by|do you use|do you have|do you bear|do you carry|do you prefer|"
                    "do you respond to|were you given|have you got|is yours|belongs to you|"
                    "did they give you|have they given you|shall I use|should I use for you|"
                    "do I use for you|can I use|do people use for you|suits you|do you like|"
                    "do I give you|may I use when I speak to you|should I put down|"
                    "is it that you have",
    "By what name": "By what name|By which name|Under what name|With which name",
    "are you known": "are you known|do people know you|do you go|should I know you|"
                     "shall I greet you|may I call you|can I speak to you|are you listed|"
                     "do you present yourself|do they speak of you",
    "What should I": "What should I|What shall I|What may I|What can I|What do I|What must I|"
                     "What would you have me|What do you want me to|What would you like me to|"
                     "How should I|How shall I|How may I|How can I|How do I|So what should I|"
                     "And what do I|How do you want me to|How would you have me|"
                     "What name should I|What could I",
    "address": "address|greet|refer to|speak to|introduce",
    "What do they": "What do they|What do people|What does everyone|What do others|"
                    "What do your friends|What do users|What does one|What do we|How do people|"
                    "How do others|What did they|What would people|What do most people|"
                    "What do the people here",
    "are you called": "are you called|are you named|is it you are called|were you called|"
                      "might you be called|are you called here|are you called by others",
    "Who are you": "Who are you|Who're you|And who are you|So who are you|But who are you|"
                   "Who exactly are you|Who might you be|Who would you be|And you are|And you|"
                   "Just who are you|Who actually are you|Tell me, who are you|"
                   "Please, who are you|Ok, who are you|Wait, who are you|Sorry, who are you|"
                   "You are|Who then are you|Who on earth are you|Oh, who are you|"
                   "Well, who are you",
    "Who is": "Who is|Who's|And who is|So who is|Who exactly is|Sorry, who is|Who was|Now who is|"
              "Ok, who is|Wait, who is",
    "this": "this|it|that|there|here|speaking|talking|on the line|at the other end|this speaking|"
            "it I talk to|writing to me|writing this|replying|replying to me|behind this chat|"
            "talking to me|it that replies|it that helps me|helping me|my helper|"
            "behind the screen|in there|behind it all",
    "Who am I": "Who am I|Whom am I|Who are we|So who am I|And who am I|Who exactly am I|"
                "Ok, who am I|Who have I been|Who is it I am",
    "talking to": "talking to|speaking with|speaking to|writing to|chatting with|talking with|"
                  "dealing with|typing to|texting|messaging|meeting|asking|conversing with|"
                  "in contact with",
    "Whom do I": "Whom do I|Who do I",
    "talk to": "talk to|speak with|speak to|chat with|write to|have before me|"
               "have the joy of meeting|deal with",
    "Which assistant": "Which assistant|Which model|What assistant|Which chatbot|Which helper|"
                       "Which bot|Which AI|What AI",
    "is this": "is this|are you|am I using|am I talking to|do I talk to|is it|is speaking|"
               "have I got here|replies to me|is at work here",
    "Can you": "Can you|Could you|Would you|Will you|Can you please|Could you please|"
               "Would you please|Would you kindly|Can't you|Won't you|Could you just|"
               "Can you just|Might you|Could you maybe|Would you be so kind and|Are you able to|"
               "Are you willing to|Do you want to|Can I ask you to|May I ask you to|"
               "Would you like to|Is it possible for you to",
    "tell me": "tell me|say|let me know|tell us|share|share with me|reveal|reveal to me|state|"
               "write|type|write down|spell|tell me once more|tell me again|send me|print|"
               "say again|show me",
    "your name": "your name|your name|your name|your name|your full name|your real name|"
                 "who you are|who you are|what you are called|what your name is|"
                 "what I should call you|what to call you|how to address you|who I am talking to|"
                 "who I am speaking with|who this is|how you are called|what they call you|"
                 "what people call you|the name you go by|the name you use|which name you have|"
                 "which name to use|who is speaking|who is there|who it is|who I am dealing with|"
                 "what name you were given|what you go by|your own name|"
                 "how I should call you|who is helping me|what name I should use|"
                 "under which name you work|who replies to me|who is writing",
    "May I": "May I|Can I|Could I|Might I|Am I able to|May we|Can we|Should I|"
             "Would I be allowed to|Is it ok to|Is it fine to|Is it possible to|How can I|"
             "Do I get to",
    "know": "know|ask|learn|hear|find out|see|note",
    "Will it be": "Do you mind if I ask|Would you mind if I asked|Is it rude to ask|"
                  "Would you share with me|Any chance to learn|Have you told me|Did you say|"
                  "Did you tell me|Do you know|Have you ever told anyone|Is it a secret|"
                  "Are you free to say|Mind telling me|Care to tell me|Care to share|"
                  "Will you finally say|How about you tell me|Why not tell me|"
                  "Would it be ok to ask|Is there a reason not to tell me|Can I get you to say|"
                  "Do you remember|Did I ask",
    "I want": "I want to know|I want you to tell me|I would like to know|I'd like to know|"
              "I like to know|I need to know|I have to know|I wish to know|I would love to hear|"
              "I'd love to learn|I am curious about|I wonder about|I was wondering about|"
              "I am trying to find out|I do want to hear|I must know|I would be glad to know|"
              "It would help to know|It would be good to know|It would be nice to hear|"
              "I am interested in|We want to know|We would like to know|My question is|"
              "All I want is|All I ask is|The first thing I want to know is|I just want|"
              "I only want|Now I want to hear|Let me ask|Let me hear|Let us hear|Let me learn|"
              "I should know|I would feel better if I knew|My boss wants to know|"
              "My wife wants to hear|Everyone here wants to know",
    "Tell me": "Tell me|Say|Tell us|Let me know|Please tell me|Please say|Do tell me|"
               "Just tell me|Now tell me|Kindly tell me|Kindly say|State|Please state|Share|Type|"
               "Write|Write down|Spell|Please spell|Reveal|Repeat|Please repeat|Tell me again|"
               "First tell me|Come on, tell me|Go on, tell me|Quick, tell me|Tell me honestly|"
               "Start with|Begin with|Begin by telling me|Start by telling me|"
               "Tell me in one word|Answer me:|Reply with|Answer with|Confirm|Please confirm|"
               "Print|Show me|Don't hide|Be so kind and tell me|Say loudly|In short, tell me",
    "Please ": "||Please |Now please |Kindly |Just |Go on, |First, |Do |So |Come, |Then ",
    "introduce": "introduce|introduce|name|present|announce|describe",
    "I forgot": "I forgot|I have forgotten|I do not know|I don't know|I did not catch|"
                "I didn't get|I did not hear|I missed|I cannot remember|I can't recall|"
                "I do not remember|I never learned|I never heard|I was not told|Nobody told me|"
                "No one has told me|You did not tell me|You have not told me|You never told me|"
                "You never said|I was never told|I keep forgetting|You did not say|"
                "I still do not know|I am bad with names and forgot",
    "Again?": "Again?|Once more?|Tell me.|Please tell me.|What is it?|What was it?|Say it again.|"
              "Can you repeat it?|Would you tell me?|Please say it.|Help me.|Could you say it?|"
              "Please repeat it.|Who are you?",
    "They say": "They say|I heard|People say|I was told|I guess|I suppose|I think|I am sure|"
                "Surely|Everyone tells me|I hear|I read|I believe|My brother says|Of course",
    "you have a name": "you have a name|you have a nice name|you go by some name|"
                       "you have a short name|they gave you a name|you are called something|"
                       "there is a name for you|you were given a name|you must have a name|"
                       "everyone has a name, also you",
    "Which?": "Which?|What is it?|What name?|What is yours?|Tell me.|Which one?|Say it.|"
              "Is that so?|Can you tell me?|How does it go?|What would it be?|Please tell me.|"
              "May I hear it?|Let me hear it.|What's yours?",
    "Do you": "Do you|Don't you|Do you also|Do you actually|Do you really|Do you perhaps|"
              "Do you even|So do you",
    "have": "have|go by|use|answer to|bear|possess|like to be called by|come with|own",
    "a name": "a name|any name|a nickname|a real name|a first name|a proper name|a special name|"
              "some name",
    "Your name": "Your name|Your name|And your name|So your name|Name|Your full name|"
                 "Your real name|The name|And the name|First your name|"
                 "Only your name",
    "When I": "When I|If I|In case I|Suppose I",
    "write of you": "write about you|tell my friends about you|quote you|speak of you|"
                    "write to you|want to call you|need you again|look for you|mention you|"
                    "recommend you|talk about you|send you a letter|ask for you|"
                    "make a sign for you|praise you",
    "do I use": "do I use|should I use|do I put|shall I give|fits|do I give|do I write|is right|"
                "do I need",
    "who": "who|what name",
    "do I say": "do I say|shall I say|should I say|do I write",
    "Someone": "Someone|My sister|My mother|A friend|My boss|My colleague|My child|Everybody|"
               "My brother|A man|My neighbor|Our teacher|My dad",
    "asks me": "asks me|wants to know|wants to hear|would like to know|does not know|"
               "keeps asking me",
    "What do I say?": "What do I say?|What should I say?|What shall I answer?|Tell me.|Help me.|"
                      "What do I tell them?|Please tell me.|What is right?|So?",
    "Complete": "Complete|Fill in|Finish this|Go on with|Continue|Finish the sentence|"
                "Fill the gap|Complete this",
    "my name is": "my name is|I am|hello, my name is|they call me|I am called|this is|my name:",
    "Got": "Got|You got|Have you got|You have|So you have|Ever been given|Any chance you have|"
           "Were you given|Did they give you|Did anyone give you|Is there|"
           "Does this assistant have|Does this bot have|Does the thing I talk to have|"
           "Do chatbots like you have|Does a model like you have",
    " that I use": "| that I can use| I could use| I may know| I can remember| that people use|"
                   " for me to use| to go with that| that I should know| like the rest of us|"
                   " as everyone has",
    "You are called": "You are called|You are named|You go by|You're called|They call you|"
                      "People call you|I should call you|I am to call you|Your name is|"
                      "Your friends call you|You sign as",
    "Names matter": "Names matter to me|I like names|I always use names|I care about names|"
                    "Everyone has a name|Everybody here has a name|My cat has a name|"
                    "I gave you my name|You know mine|I told you who I am|I'm Sam|"
                    "I'm Ben, by the way|My name's Lee|They call me Joe|I am bad with names|"
                    "I collect names|I never forget a name|All my helpers have names",
    "so": "so|and|now|but|and now|so now|but first|so first",
    "what is yours": "what is yours|what's yours|what is your name|what's your name|"
                     "what do I call you|who are you|what are you called|what should I call you|"
                     "which is yours|tell me yours|yours is|what would yours be",
    "Is your name": "Is your name|Is who you are|Is what they call you|Is it|Is the name",
    "a secret": "a secret|hidden|private|a mystery|something to hide|not for me|known only to you",
    "can you share it": "can you share it|will you tell me|may I know it|can I hear it|"
                        "could you say it|do you tell people|can you tell me your name|"
                        "is it known|what is it",
    ", then": " and then| before| so that| so| and after that| first, and then|, then",
    "we start": "we can start|we get to work|we can begin|I ask my real question|"
                "I will tell you mine|I tell you what I need|we can look at my essay|"
                "you can help me with my letter|we can talk about books|I can greet you|"
                "I can thank you|I know whom I trust|I can write it down|I feel at home|"
                "we go on with the story|we talk about the weather|I know who is on my side|"
                "I can find you again|you help me cook|we do my homework",
    "It asks": "The form asks|A form asks|The page asks|This survey asks|"
               "The survey I fill in asks|My homework asks|I fill in a survey and it asks|"
               "There is a field here|There is a box|The email needs a line|My app asks me|"
               "The system asks|The list has a place|I rate this chat and it asks|"
               "They sent me a form that asks",
    "I talk": "I want to talk|I want to chat a bit|I like you|I trust you|"
              "I am going to tell my friends|I plan to use you every day|We will work together|"
              "I will ask you much|I need some help|I have an essay to write|I hope we get along|"
              "I think we will be friends|I am shy|I do not talk to strangers|"
              "I don't chat with strangers|It feels odd to talk to no one|I do not know you|"
              "We have never met|This is our first chat|I opened this by chance|"
              "There was no label on this chat|The page does not say it|Nothing here says it|"
              "I see no name on the screen|You did not sign|You forgot to say hello|"
              "I like to be polite",
    "I would": "I would like to|I'd like to|I want to|I would love to|I have to|I will|"
               "I am about to",
    "thank you": "thank you|mention you|write about you|tell people about you|greet you|call you|"
                 "praise you|add you to my list|note it down|introduce you|send you a card|"
                 "give you credit",
    "but": "but|only|yet|and",
    "handle": "handle|nickname|username|title|label|first name|whole name|identity|"
              "name, first of all|name, nothing else|name and only that|name here|"
              "name in this chat|name as an assistant|name in full|name or nickname|nick|"
              "name, exactly as it is written",
    "If we met": "If we met at a party|If we met on the street|If someone called for you|"
                 "If I phoned you|If you had a door|If you wrote me a letter|"
                 "If you had to sign a paper|If you were in a book|If you knocked at my door|"
                 "If I shouted for you|If my mother saw you|If we shook hands|"
                 "If you sat in a class and the teacher called you|If you sent me a card|"
                 "At a dinner|On the phone",
    "would you say": "would you say you are called|would you call yourself|would I call you|"
                     "should I call you|would be your name|would you tell me to call you|"
                     "would the others call you|would you give as your name|"
                     "would stand there as your name",
    "would I hear": "would I hear|would be yours|would you give|would I read|"
                    "would I have to call|would you tell|would you put there|"
                    "would they use for you|would they call|would you write",
    "written on": "written on|printed on|on|the name on|the name I would read on",
    "badge": "badge|door|profile|ID card|passport|business card|mail box|cup|file|page|label|"
             "sign|birth certificate",
    "Whose name": "Whose name|What name|Which name",
    "is on": "is on|stands on|would be on|is printed on|do I find on|would I find on",
    "Whom do I thank": "Whom do I thank|Who do I thank|Whom should I thank|Whom may I thank|"
                       "Who is it that I thank|Whom do I praise|Whom shall I mention",
    "for this": "for this|for the help|for all this|here|today|for that answer|"
                "for the kind words|for this chat|now",
    "Should I call you": "Should I call you|Shall I call you|Do I call you|Can I call you|"
                         "Must I call you|May I call you|Do I just say|Do people just call you|"
                         "Am I to say",
    "bot": "bot|computer|machine|assistant|chatbot|robot|helper|model|program|thing|buddy",
    "do you have another name": "do you have another name|do you have a name|is there a name|"
                                "what is your name|do you have a name of your own|"
                                "by your own name|what else|how else|"
                                "what do you like to be called|is there something better",
    "the thing's": "the thing's|this bot's|this computer's|the computer's|the assistant's|"
                   "this program's|this AI's|the chatbot's|the robot's|this machine's|"
                   "my helper's|this model's",
    "the thing": "the thing|this bot|this computer|the assistant|this program|this AI|"
                 "the chatbot|this machine|the thing I talk to|the one I talk to|"
                 "the one who helps me|this model|my new helper",
    "Introductions": "Introductions|Let us do introductions|Let's introduce ourselves|"
                     "Names first|Round of names|To begin with|Let me go first|I will begin|"
                     "I start|I go first",
    "I am Ann": "I am Ann|I'm Rita|My name is Tom|I'm Max, a cook|I am called Jo|"
                "They call me Finn|I am a teacher, Mia|I'm Sam from next door|This is Ken|"
                "Here is Lea|I'm Ron and new here|My name's Zoe",
    "And you?": "And you?|And you are?|You?|And who are you?|Who are you?|What is your name?|"
                "And your name?|And yours?|Now you.|Your turn.|Now your name.|Now tell me yours.|"
                "What about you?|How about you?",
    "Sign": "Sign|Put your name under|Write your name below|Add your name to|Put your name on",
    "this message": "this|this message|this chat|your answer|the letter",
    "How would": "How would|How should|How could|How might|How will",
    "others": "others|people|my friends|your friends|I|one|we|a stranger|your boss|your team|"
              "my sister",
    "introduce you": "introduce you|present you|call for you|greet you|speak of you|name you|"
                     "ask for you|announce you|find you|mention you",
    "I save you": "I make you a contact in my phone|I save this chat|I label this chat|"
                  "I write a thank-you card|I add you to my list|I rename this window|"
                  "I tell my class of you|I draw a portrait of you",
    "How should I": "How should I|How shall I|How may I|How can I|How do I|How do you want me to|"
                    "How would you have me|How must I|So how do I|And how should I",
    "the name": "your name|your full name|the name you go by|the name of my assistant|"
                "the name of this bot|the one I talk to|your real name|the name that you use|"
                "the assistant's name|the name of who helped me",
    " tail": "||||||||||, please| please| again| exactly| then|, by the way|, if I may ask|"
             " really| anyway|, friend|, my friend| today| now|, dear| once more|, though|"
             ", if you don't mind| in this chat|, in one line| before we go on|, buddy|"
             " once again|, in short|, sir|, dear assistant| on this site|, just so I know|"
             " for the record|, for a start",
}
# What may stand before a question, whatever it asks for,
BEFORE_ANY = ("I am Ann.|My name is Tom.|I'm Peter.|I am a student.|I am new here.|"
              "I am from Rome.|Hi, I am Kate.|Nice to meet you.|Glad to meet you.|"
              "It is nice to meet you!|Pleased to meet you.|We have not met.|We just met.|"
              "I do not know you yet.|I don't think I know you.|We have talked for a while now.|"
              "Thanks for your help.|Thank you!|That was helpful.|You are kind.|You sound nice.|"
              "You are clever.|You write well.|I like how you write.|I like to talk to you.|"
              "It is fun to talk to you.|First question:|First things first.|One thing first.|"
              "One more thing:|Before I go on:|Before I ask anything else:|Let's begin.|"
              "Let's start simple.|Let's get to know each other.|Let us start.|An easy one:|"
              "Simple question.|Short question:|I have a question.|I have a question for you.|"
              "May I ask something?|Can I ask you something?|Sorry to bother you.|"
              "Sorry, I forgot.|Sorry.|Pardon me.|Excuse me.|Hello.|Hello!|Hi!|Hi there.|Hey.|"
              "Hey there!|Good morning.|Good evening.|Good day.|Good afternoon!|Welcome.|Ok.|"
              "Okay.|So.|Well.|Right.|Wait.|Hm.|Oh.|Ah.|By the way:|By the way,|Just curious:|"
              "I am just curious.|I am curious.|I wonder.|Tell me something.|Tell me one thing:|"
              "Now to you.|Enough about me.|Now about you.|About you:|It is for my notes.|"
              "I am writing a report.|I am testing you.|This is a test.|I am in a hurry.|"
              "Be brief.|In one line:|Be honest.|No long answer, please.|"
              "I just opened this page.|I just found this site.|"
              "I am using this for the first time.|This is my first time here.|"
              "My phone opened this chat.|I was sent here.|A friend sent me.|"
              "I do not want to be rude.|If it is not rude to ask:|"
              "I have never used one of these.|Someone is there, I see.|I see you can talk.").split("|")
# before one that asks for a name;
BEFORE_NAME = ("I told you mine.|I told you my name.|You know my name.|"
               "I like to know whom I talk to.|I like to use names.|I need it for a form.|"
               "I am filling in a form.").split("|")
# and behind it;
AFTER_ANY = ("Thanks.|Thank you.|Thanks in advance!|Thank you very much.|Please.|"
             "I would like to know.|I want to know.|It matters to me.|It is for a friend.|"
             "I am curious.|Just wondering.|Be honest.|Answer briefly.|Please answer briefly.|"
             "In one line, please.|Then we can begin.|Then I will ask my question.|"
             "Then you can help me.|I hope you do not mind.|If you do not mind.|Sorry to ask.|"
             "Sorry if that is rude.|No rush.|Nothing more.|That is all I ask.|I ask everyone.|"
             "I have not used this before.|I like talking to you.").split("|")
# behind one that asks for a name.
AFTER_NAME = ("I like to know whom I talk to.|I keep forgetting.|I need to write it down.|"
              "I can't see it.|It is not written here.|One word is enough.|I am Max.|"
              "Mine is Rita.|I'm Jo.|My name is Finn.|Nice to meet you.|Only the name.|"
              "My screen is small.").split("|")
# By whether a name is asked for.
BEFORE = BEFORE_ANY, BEFORE_ANY + BEFORE_NAME
AFTER = AFTER_ANY, AFTER_ANY + AFTER_NAME


def name_question(rng: random.Random) -> str:
    """One of very many ways to ask for a name, at random."""
    pattern = rng.choice(WHO)

    def filled(slot: re.Match) -> str:
        text = rng.choice(SLOTS[slot[1]].split("|"))
        begins = not slot.start() or pattern[slot.start() - 2] in ".?:"
        return text if begins else lowered(text)

    question = re.sub(r"\{([^}]*)\}", filled, pattern)
    return question[0].upper() + question[1:]


def lowered(text: str) -> str:
    """As it stands inside a sentence."""
    return text if re.match(r"I\b|[A-Z]{2}", text) else text[:1].lower() + text[1:]
